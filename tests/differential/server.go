// A server of Go's net/http that tells, for each request, how Go understands it.
//
// Ollama is written in Go: what this server reads in a request is what Ollama would read. It prints a line of JSON for
// each request, and answers like an Ollama with one model.
package main

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
)

// The fields that decide where a request goes, with the types of Ollama's own requests.
type body struct {
	Model    string            `json:"model"`
	Stream   *bool             `json:"stream"`
	Prompt   string            `json:"prompt"`
	Messages []json.RawMessage `json:"messages"`
}

type view struct {
	Server  string   `json:"server"`
	Id      []string `json:"id"`
	Method  string   `json:"method"`
	Target  string   `json:"target"`
	Fields  []string `json:"fields"`
	Length  int64    `json:"length"`
	Codings []string `json:"codings"`
	Digest  string   `json:"digest"`
	Told    []string `json:"told"`
	Model   string   `json:"model"`
	Stream  *bool    `json:"stream"`
	Prompts bool     `json:"prompts"`
	Error   string   `json:"error"`
}

const model = `{"name":"tiny:latest","model":"tiny:latest","modified_at":"2025-01-01T00:00:00Z","size":1,` +
	`"digest":"0000000000000000000000000000000000000000000000000000000000000000","details":{"family":"llama"}}`

var probes = map[string]string{
	"/api/version": `{"version":"0.33.0"}`,
	"/api/tags":    `{"models":[` + model + `]}`,
	"/api/ps":      `{"models":[]}`,
}

func main() {
	var lock sync.Mutex
	out := bufio.NewWriter(os.Stdout)
	tell := func(seen view) {
		line, _ := json.Marshal(seen)
		lock.Lock()
		defer lock.Unlock()
		out.Write(append(line, '\n'))
		out.Flush()
	}
	handle := func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		if answer, ok := probes[r.RequestURI]; ok && r.Method == "GET" && r.Header.Get("X-Request-Id") == "" {
			io.WriteString(w, answer)
			return
		}
		seen := view{Server: "go", Id: r.Header["X-Request-Id"], Method: r.Method, Target: r.RequestURI,
			Length: r.ContentLength, Codings: r.TransferEncoding, Told: r.Header["X-Digest"]}
		for name := range r.Header {
			seen.Fields = append(seen.Fields, strings.ToLower(name))
		}
		data, err := io.ReadAll(r.Body)
		if err != nil {
			seen.Error = "unreadable: " + err.Error()
		}
		sum := sha256.Sum256(data)
		seen.Digest = hex.EncodeToString(sum[:])
		var value body
		// The first value alone, as gin's binding does.
		if err := json.NewDecoder(strings.NewReader(string(data))).Decode(&value); err != nil && seen.Error == "" {
			seen.Error = err.Error()
		}
		seen.Model, seen.Stream = value.Model, value.Stream
		if r.RequestURI == "/api/chat" {
			seen.Prompts = len(value.Messages) > 0
		} else {
			seen.Prompts = value.Prompt != ""
		}
		tell(seen)
		io.WriteString(w, `{"model":"tiny","done":true,"embeddings":[[0.5]],"data":[],"choices":[],"usage":{}}`+"\n")
	}
	listener, err := net.Listen("tcp", os.Args[1])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	// Not the default mux: it redirects paths that are not clean.
	http.Serve(listener, http.HandlerFunc(handle))
}
