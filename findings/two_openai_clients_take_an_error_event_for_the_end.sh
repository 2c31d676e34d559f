#!/usr/bin/env bash
# Java langchain4j-open-ai 1.18.1 and Go langchaingo 0.1.14, their clients for OpenAI's API: an error event in a stream,
# `data: {"error":..}`, is read as a chunk without text, and the part before it is given as the complete answer, without
# an error. langchain4j calls onCompleteResponse, without a finish reason. With `event: error` before the data it reports the
# error; langchaingo does not. Both report a connection that closes without the end of the body.
#
# So a server that reports its failure inside the stream and then ends the stream properly is not
# understood. What helps is what a broken server would do: close the connection without the end of the body, after
# the event.
#
# Output seen:
#   java, error: complete, "hello"
#   java, error with a name: failed
#   java, error, then cut: failed
#   go, error: complete, "hello"
#   go, error with a name: complete, "hello"
#   go, error, then cut: failed
set -euo pipefail
folder="$(mktemp -d)"
server=
trap '[ -z "$server" ] || kill "$server" 2> /dev/null; rm -rf "$folder"' EXIT
cd "$folder"
cat > pom.xml <<'XML'
<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>finding</groupId>
  <artifactId>finding</artifactId>
  <version>0</version>
  <dependencies>
    <dependency>
      <groupId>dev.langchain4j</groupId>
      <artifactId>langchain4j-open-ai</artifactId>
      <version>1.18.1</version>
    </dependency>
  </dependencies>
</project>
XML
mvn -q -B dependency:copy-dependencies -DoutputDirectory=lib > mvn.log 2>&1 || { cat mvn.log; exit 1; }
cat > Ask.java <<'JAVA'
import dev.langchain4j.model.chat.response.ChatResponse;
import dev.langchain4j.model.chat.response.StreamingChatResponseHandler;
import dev.langchain4j.model.openai.OpenAiStreamingChatModel;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.TimeUnit;

class Ask {
  public static void main(String[] base) throws Exception {
    var seen = new CompletableFuture<String>();
    var model = OpenAiStreamingChatModel.builder().baseUrl(base[0]).apiKey("none").modelName("m").build();
    model.chat("hi", new StreamingChatResponseHandler() {
      public void onPartialResponse(String text) {}
      public void onCompleteResponse(ChatResponse whole) {
        seen.complete("complete, \"" + whole.aiMessage().text() + "\"");
      }
      public void onError(Throwable error) {
        seen.complete("failed");
      }
    });
    System.out.println(seen.get(60, TimeUnit.SECONDS));
    System.exit(0);
  }
}
JAVA
mkdir go
cat > go/main.go <<'GO'
package main

import (
	"context"
	"fmt"
	"os"

	"github.com/tmc/langchaingo/llms"
	"github.com/tmc/langchaingo/llms/openai"
)

func main() {
	model, err := openai.New(openai.WithModel("m"), openai.WithBaseURL(os.Args[1]), openai.WithToken("none"))
	if err != nil {
		panic(err)
	}
	hi := []llms.MessageContent{llms.TextParts(llms.ChatMessageTypeHuman, "hi")}
	streamed := llms.WithStreamingFunc(func(context.Context, []byte) error { return nil })
	answer, err := model.GenerateContent(context.Background(), hi, streamed)
	if err != nil {
		fmt.Println("failed")
		return
	}
	fmt.Printf("complete, %q\n", answer.Choices[0].Content)
}
GO
(cd go && go mod init finding && go get github.com/tmc/langchaingo@v0.1.14 && go mod tidy && go build -o ../ask-go .) > /dev/null 2>&1
cat > serve.py <<'PY'
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

chunk = 'data: {"id":"c","object":"chat.completion.chunk","created":1,"model":"m","choices":[{"index":0,"delta":{"content":"hello"}}]}\n\n'
failure = 'data: {"error":{"message":"the server is gone","type":"server_error"}}\n\n'
streams = {
    "/error": [chunk, failure, ""],
    "/named": [chunk, "event: error\n" + failure, ""],
    "/cut": [chunk, failure],
}


class Streams(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        for part in streams["/" + self.path.split("/")[1]]:
            self.wfile.write(f"{len(part):x}\r\n{part}\r\n".encode())
        self.close_connection = True

    def log_message(self, *_):
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), Streams)
print(server.server_port, flush=True)
server.serve_forever()
PY
mkfifo port
python3 serve.py > port &
server=$!
read -r port < port
ask() { # NAME COMMAND..
    name="$1"
    shift
    echo "$name, error: $("$@" "http://127.0.0.1:$port/error/v1")"
    echo "$name, error with a name: $("$@" "http://127.0.0.1:$port/named/v1")"
    echo "$name, error, then cut: $("$@" "http://127.0.0.1:$port/cut/v1")"
}
seen="$(ask java java -cp "lib/*" Ask.java 2> /dev/null; ask go ./ask-go 2> /dev/null)"
echo "$seen"
expected='java, error: complete, "hello"
java, error with a name: failed
java, error, then cut: failed
go, error: complete, "hello"
go, error with a name: complete, "hello"
go, error, then cut: failed'
[ "$seen" = "$expected" ] || { echo "this has changed; expected:"; echo "$expected"; exit 1; }
