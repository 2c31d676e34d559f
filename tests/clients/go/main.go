// One chat as a stream, by a client library: what the library makes of its end.
//
//	broken-streams URL CLIENT
//
// The last line of the output is "ended after N" or "failed after N: TEXT".
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"

	"github.com/ollama/ollama/api"
	openaigo "github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/option"
	"github.com/openai/openai-go/v3/responses"
	goopenai "github.com/sashabaranov/go-openai"
	"github.com/tmc/langchaingo/llms"
	"github.com/tmc/langchaingo/llms/ollama"
)

const (
	model  = "small"
	prompt = "the llama"
)

// Each returns how many parts it was given.
var clients = map[string]func(ctx context.Context, base string) (int, error){
	"ollama/api":          ollamaAPI,
	"go-openai":           goOpenAI,
	"openai-go chat":      openAIGoChat,
	"openai-go responses": openAIGoResponses,
	"langchaingo":         langchainGo,
}

func main() {
	base, name := os.Args[1], os.Args[2]
	parts, err := clients[name](context.Background(), base)
	if err != nil {
		fmt.Printf("failed after %d: %q\n", parts, err.Error())
		return
	}
	fmt.Printf("ended after %d\n", parts)
}

func ollamaAPI(ctx context.Context, base string) (parts int, err error) {
	address, err := url.Parse(base)
	if err != nil {
		return 0, err
	}
	request := api.ChatRequest{Model: model, Messages: []api.Message{{Role: "user", Content: prompt}}}
	err = api.NewClient(address, http.DefaultClient).Chat(ctx, &request, func(api.ChatResponse) error {
		parts++
		return nil
	})
	return parts, err
}

func goOpenAI(ctx context.Context, base string) (parts int, err error) {
	config := goopenai.DefaultConfig("unused")
	config.BaseURL = base + "/v1"
	stream, err := goopenai.NewClientWithConfig(config).CreateChatCompletionStream(ctx, goopenai.ChatCompletionRequest{
		Model:    model,
		Stream:   true,
		Messages: []goopenai.ChatCompletionMessage{{Role: "user", Content: prompt}},
	})
	if err != nil {
		return 0, err
	}
	defer stream.Close()
	for {
		_, err = stream.Recv()
		if errors.Is(err, io.EOF) {
			return parts, nil
		}
		if err != nil {
			return parts, err
		}
		parts++
	}
}

func openAIGo(base string) openaigo.Client {
	return openaigo.NewClient(option.WithBaseURL(base+"/v1"), option.WithAPIKey("unused"), option.WithMaxRetries(0))
}

func openAIGoChat(ctx context.Context, base string) (parts int, err error) {
	client := openAIGo(base)
	stream := client.Chat.Completions.NewStreaming(ctx, openaigo.ChatCompletionNewParams{
		Model:    model,
		Messages: []openaigo.ChatCompletionMessageParamUnion{openaigo.UserMessage(prompt)},
	})
	for stream.Next() {
		parts++
	}
	return parts, stream.Err()
}

func openAIGoResponses(ctx context.Context, base string) (parts int, err error) {
	client := openAIGo(base)
	stream := client.Responses.NewStreaming(ctx, responses.ResponseNewParams{
		Model: model,
		Input: responses.ResponseNewParamsInputUnion{OfString: openaigo.String(prompt)},
	})
	for stream.Next() {
		parts++
		if event := stream.Current(); event.Type == "response.failed" {
			return parts, errors.New(event.Response.Error.Message)
		}
	}
	return parts, stream.Err()
}

func langchainGo(ctx context.Context, base string) (parts int, err error) {
	client, err := ollama.New(ollama.WithServerURL(base), ollama.WithModel(model))
	if err != nil {
		return 0, err
	}
	messages := []llms.MessageContent{llms.TextParts(llms.ChatMessageTypeHuman, prompt)}
	_, err = client.GenerateContent(ctx, messages, llms.WithStreamingFunc(func(context.Context, []byte) error {
		parts++
		return nil
	}))
	return parts, err
}
