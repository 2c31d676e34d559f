#!/usr/bin/env bash
# Go github.com/firebase/genkit/go 1.4.0, its plugin for Ollama: a streamed call never looks at the status of the response
# and knows no `error` line. It reads `{"error":".."}` of a 401, 404 or 503 as one more part without text, so the
# program gets an empty answer with the finish reason `stop`, and no error. An error line in the middle of a stream
# gives half an answer with the same end. Without streaming, a 503 is an error.
#
# So a full or locked gateway looks to its users like a model that says nothing, and a dashboard of that program
# shows no failure. What helps is a check for an empty answer, and the metrics of the gateway.
#
# Output seen:
#   200: text "hello", finish reason "stop", failed false
#   401: text "", finish reason "stop", failed false
#   503: text "", finish reason "stop", failed false
#   200, then an error line: text "hel", finish reason "stop", failed false
#   503 without streaming: failed true
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

	"github.com/firebase/genkit/go/ai"
	"github.com/firebase/genkit/go/genkit"
	"github.com/firebase/genkit/go/plugins/ollama"
)

func ask(name string, status int, body string, stream bool) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/x-ndjson")
		w.WriteHeader(status)
		fmt.Fprint(w, body)
	}))
	defer server.Close()
	ctx := context.Background()
	plugin := &ollama.Ollama{ServerAddress: server.URL}
	kit := genkit.Init(ctx, genkit.WithPlugins(plugin))
	model := plugin.DefineModel(kit, ollama.ModelDefinition{Name: "m", Type: "chat"}, nil)
	options := []ai.GenerateOption{ai.WithModel(model), ai.WithPrompt("hi")}
	if stream {
		options = append(options, ai.WithStreaming(func(context.Context, *ai.ModelResponseChunk) error { return nil }))
	}
	response, err := genkit.Generate(ctx, kit, options...)
	if err != nil {
		fmt.Printf("%s: failed true\n", name)
		return
	}
	fmt.Printf("%s: text %q, finish reason %q, failed false\n", name, response.Text(), response.FinishReason)
}

func main() {
	part := func(text string) string { return `{"message":{"role":"assistant","content":"` + text + `"},"done":false}` + "\n" }
	done := `{"message":{"role":"assistant","content":""},"done":true,"done_reason":"stop"}` + "\n"
	failure := `{"error":"no server is free"}` + "\n"
	ask("200", 200, part("hel")+part("lo")+done, true)
	ask("401", 401, failure, true)
	ask("503", 503, failure, true)
	ask("200, then an error line", 200, part("hel")+failure, true)
	ask("503 without streaming", 503, failure, false)
}
GO
go mod init finding > /dev/null 2>&1
go get github.com/firebase/genkit/go@v1.4.0 > /dev/null 2>&1
go mod tidy > /dev/null 2>&1
seen="$(go run . 2> /dev/null)"
echo "$seen"
expected='200: text "hello", finish reason "stop", failed false
401: text "", finish reason "stop", failed false
503: text "", finish reason "stop", failed false
200, then an error line: text "hel", finish reason "stop", failed false
503 without streaming: failed true'
[ "$seen" = "$expected" ] || { echo "this has changed; expected:"; echo "$expected"; exit 1; }
