#!/usr/bin/env bash
# Ollama 0.17.4, the Go package `api` that its command line is built on: a stream whose connection closes between
# two lines, without the last chunk of its framing and without `"done":true`, ends without an error. `stream` reads
# lines with a bufio.Scanner and never asks for its Err().
#
# So `ollama run` prints half an answer and exits with 0. What it does notice is a line with an `error`, and a line
# that is no JSON, like the half of one. A proxy that loses its server has to write such a line.
#
# Output seen:
#   cut between two lines: 2 parts, error <nil>
#   cut inside a line: 2 parts, error {"message":{"con
#   an error line, then cut: 2 parts, error gone
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
	"net/url"

	"github.com/ollama/ollama/api"
)

const line = `{"message":{"content":"a"},"done":false}` + "\n"

func ask(name, end string) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/x-ndjson")
		fmt.Fprint(w, line, line, end)
		w.(http.Flusher).Flush()
		// Closes the connection without the last chunk.
		panic(http.ErrAbortHandler)
	}))
	defer server.Close()
	base, _ := url.Parse(server.URL)
	parts := 0
	err := api.NewClient(base, http.DefaultClient).Chat(context.Background(), &api.ChatRequest{Model: "x"},
		func(api.ChatResponse) error { parts++; return nil })
	fmt.Printf("%s: %d parts, error %v\n", name, parts, err)
}

func main() {
	ask("cut between two lines", "")
	ask("cut inside a line", line[:16])
	ask("an error line, then cut", `{"error":"gone"}`+"\n")
}
GO
go mod init cut > /dev/null 2>&1
go get github.com/ollama/ollama/api@v0.17.4 > /dev/null 2>&1
go run .
