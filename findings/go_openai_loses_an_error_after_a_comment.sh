#!/usr/bin/env bash
# Go github.com/sashabaranov/go-openai 1.43.0: once a stream has had a comment or an `event:` line, even before its first
# chunk, the text of a later error event is lost, and the program gets "unexpected end of JSON input". The client
# collects all lines that are no data over the whole stream, and appends the error to them before it parses the sum.
# More than 300 such lines in a row, empty ones included, end the stream with "too many empty messages" although it
# is alive: 151 comments with their empty lines do.
#
# So comments that keep a stream open during a long wait cost this client the reason of a later error, and the stream
# itself after 150 of them. `event: error` before the error, which other clients look for, costs the reason too. What
# helps is a long interval between comments, EmptyMessagesLimit in the client, and errors without a name.
#
# Output seen:
#   error: hello, error, the server is gone
#   comment, chunk, error: hello, unexpected end of JSON input
#   event: error: hello, unexpected end of JSON input
#   150 comments: hello, EOF
#   151 comments: , stream has sent too many empty messages
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
cd "$folder"
cat > main.go << 'GO'
package main

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"

	"github.com/sashabaranov/go-openai"
)

const (
	chunk   = `data: {"id":"c","choices":[{"index":0,"delta":{"content":"hello"}}]}` + "\n\n"
	failure = `data: {"error":{"message":"the server is gone","type":"server_error"}}` + "\n\n"
	comment = ": still working\n\n"
	end     = "data: [DONE]\n\n"
)

func ask(name, body string) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		fmt.Fprint(w, body)
	}))
	defer server.Close()
	config := openai.DefaultConfig("none")
	config.BaseURL = server.URL + "/v1"
	request := openai.ChatCompletionRequest{
		Model:    "m",
		Messages: []openai.ChatCompletionMessage{{Role: "user", Content: "hi"}},
	}
	stream, err := openai.NewClientWithConfig(config).CreateChatCompletionStream(context.Background(), request)
	if err != nil {
		panic(err)
	}
	text := ""
	for {
		part, err := stream.Recv()
		if err != nil {
			fmt.Printf("%s: %s, %v\n", name, text, err)
			return
		}
		text += part.Choices[0].Delta.Content
	}
}

func main() {
	ask("error", chunk+failure+end)
	ask("comment, chunk, error", comment+chunk+failure+end)
	ask("event: error", chunk+"event: error\n"+failure+end)
	ask("150 comments", strings.Repeat(comment, 150)+chunk+end)
	ask("151 comments", strings.Repeat(comment, 151)+chunk+end)
}
GO
go mod init finding > /dev/null 2>&1
go get github.com/sashabaranov/go-openai@v1.43.0 > /dev/null 2>&1
seen="$(go run .)"
echo "$seen"
expected="error: hello, error, the server is gone
comment, chunk, error: hello, unexpected end of JSON input
event: error: hello, unexpected end of JSON input
150 comments: hello, EOF
151 comments: , stream has sent too many empty messages"
[ "$seen" = "$expected" ] || { echo "this has changed; expected:"; echo "$expected"; exit 1; }
