// The connection to the gateway. The browser connects again by itself after a connection is lost; after
// a response other than 200 it does not, so this does.

// The plots get an event each 5 s, so that silence means a lost connection.
const SILENCE = 15_000;
const PAUSE = 3_000;

export function connect(parts, tellState) {
  let heard = Date.now();
  let source = open();

  function open() {
    const source = new EventSource("/status/events");
    for (const [name, show] of Object.entries(parts)) {
      source.addEventListener(name, (event) => {
        heard = Date.now();
        const state = show(JSON.parse(event.data));
        if (name === "gateway") tellState(state, "good");
      });
    }
    source.addEventListener("error", () => {
      tellState("the gateway does not answer; trying again", "bad");
      if (source.readyState === EventSource.CLOSED) setTimeout(again, PAUSE);
    });
    return source;
  }

  async function again() {
    source.close();
    try {
      const response = await fetch("/status/requests");
      if (response.status === 401 || response.status === 403) {
        tellState("signed out: load the page again", "bad");
        return;
      }
    } catch {
      // It still does not answer; a new connection tells so as well.
    }
    heard = Date.now();
    source = open();
  }

  setInterval(() => {
    if (source.readyState !== EventSource.OPEN || Date.now() - heard < SILENCE) return;
    tellState("nothing has come from the gateway for a while; trying again", "bad");
    again();
  }, 1_000);
}
