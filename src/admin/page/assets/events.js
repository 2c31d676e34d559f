// The connection to the gateway. The browser connects again by itself, unless the gateway refuses it.

export function connect(parts, tellState) {
  const source = new EventSource("/status/events");
  for (const [name, show] of Object.entries(parts)) {
    source.addEventListener(name, (event) => {
      const state = show(JSON.parse(event.data));
      if (name === "gateway") tellState(state, "good");
    });
  }
  source.addEventListener("error", () => {
    if (source.readyState === EventSource.CLOSED) {
      tellState("signed out: load the page again", "bad");
    } else tellState("the gateway does not answer; trying again", "bad");
  });
}
