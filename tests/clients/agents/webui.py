"""Open WebUI's backend as a process, without its page."""

import json
import urllib.error
import urllib.request
from pathlib import Path

from harness.process import Process, free_port
from programs import LIMIT, MODEL, PROMPT, Seen, needs

# No login, no models from a hub, no look for updates, and a vector store that is never asked for anything.
SETTINGS = {
    "FROM_INIT_PY": "true",
    "WEBUI_AUTH": "False",
    "WEBUI_SECRET_KEY": "of the tests",
    "ENABLE_PERSISTENT_CONFIG": "False",
    "ENABLE_OPENAI_API": "False",
    "ENABLE_VERSION_UPDATE_CHECK": "False",
    "OFFLINE_MODE": "True",
    "HF_HUB_OFFLINE": "1",
    "ANONYMIZED_TELEMETRY": "False",
    "DO_NOT_TRACK": "1",
    "RAG_EMBEDDING_ENGINE": "ollama",
    "BYPASS_EMBEDDING_AND_RETRIEVAL": "True",
    "VECTOR_DB": "opensearch",
    "OPENSEARCH_USERNAME": "none",
    "OPENSEARCH_PASSWORD": "none",
    "NO_PROXY": "127.0.0.1",
}

_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class OpenWebUI:
    """Open WebUI, with the gateway as its one connection."""

    def __init__(self, folder: Path):
        python = needs("open-webui/bin/python", "Open WebUI")
        self._url = f"http://127.0.0.1:{free_port()}"
        self._token = ""
        port = self._url.rsplit(":", 1)[1]
        command = [str(python), "-m", "uvicorn", "open_webui.main:app", "--host", "127.0.0.1", "--port", port]
        env = {**SETTINGS, "DATA_DIR": str(folder / "data")}
        self._process = Process("open-webui", command, env, folder, start_limit=LIMIT)
        self._process.start(f"{self._url}/health", 200)
        _, body = self._post("/api/v1/auths/signin", {"email": "", "password": ""})
        self._token = json.loads(body)["token"]

    def _open(self, path: str, body: dict | None) -> tuple[int, str]:
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {self._token}"}
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self._url + path, data, headers)
        try:
            with _opener.open(request, timeout=LIMIT) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def _post(self, path: str, body: dict) -> tuple[int, str]:
        return self._open(path, body)

    def connect(self, url: str, key: str) -> None:
        """Change the connection, as its settings page does, and list the models."""
        connection = {"0": {"enable": True, "key": key}}
        config = {"ENABLE_OLLAMA_API": True, "OLLAMA_BASE_URLS": [url], "OLLAMA_API_CONFIGS": connection}
        status, body = self._post("/ollama/config/update", config)
        assert status == 200, body
        self._open("/api/models?refresh=true", None)

    def ask(self, url: str, key: str, folder: Path) -> Seen:
        self.connect(url, key)
        return self.chat()

    def chat(self) -> Seen:
        messages = [{"role": "user", "content": PROMPT}]
        body = {"model": f"{MODEL}:latest", "messages": messages, "stream": True}
        status, answer = self._post("/api/chat/completions", body)
        if status != 200:
            return Seen("", 0, json.loads(answer)["detail"])
        events = [line.removeprefix("data: ") for line in answer.splitlines() if line.startswith("data: {")]
        deltas = [event["choices"][0]["delta"] for event in map(json.loads, events) if event.get("choices")]
        text = [delta["content"] for delta in deltas if delta.get("content")]
        errors = [event["error"]["message"] for event in map(json.loads, events) if "error" in event]
        return Seen("".join(text), len(text), errors[0] if errors else None)

    def stop(self) -> None:
        self._process.stop()
