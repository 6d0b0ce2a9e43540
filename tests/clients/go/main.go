// openai-go: what services do with it, and what it shows of what went wrong.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/option"
	"github.com/openai/openai-go/v3/responses"
	"github.com/openai/openai-go/v3/shared"
)

const model = "gpt-4o-mini"

var parameters = shared.FunctionParameters{
	"type":       "object",
	"properties": map[string]any{"city": map[string]any{"type": "string"}},
	"required":   []string{"city"},
}

func question() openai.ChatCompletionNewParams {
	return openai.ChatCompletionNewParams{
		Model:    model,
		Messages: []openai.ChatCompletionMessageParamUnion{openai.UserMessage("What is the weather in Paris?")},
	}
}

func simulated(text string) error {
	if !strings.HasPrefix(text, "Simulated answer") {
		return fmt.Errorf("answered %q", text)
	}
	return nil
}

func main() {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	client := openai.NewClient(option.WithMaxRetries(0))
	failed := 0
	tried := func(name string, what func() error) {
		if err := what(); err != nil {
			failed++
			fmt.Printf("failed %s: %s\n", name, strings.ReplaceAll(err.Error(), "\n", " "))
			return
		}
		fmt.Printf("ok %s\n", name)
	}

	tried("models", func() error {
		pages := client.Models.ListAutoPaging(ctx)
		found := false
		for pages.Next() {
			found = found || pages.Current().ID == model
		}
		if !found {
			return fmt.Errorf("%s is not listed: %v", model, pages.Err())
		}
		return nil
	})

	tried("chat", func() error {
		chat, err := client.Chat.Completions.New(ctx, question())
		if err != nil {
			return err
		}
		return simulated(chat.Choices[0].Message.Content)
	})

	tried("stream", func() error {
		asked := question()
		asked.StreamOptions = openai.ChatCompletionStreamOptionsParam{IncludeUsage: openai.Bool(true)}
		stream := client.Chat.Completions.NewStreaming(ctx, asked)
		whole := openai.ChatCompletionAccumulator{}
		for stream.Next() {
			whole.AddChunk(stream.Current())
		}
		if err := stream.Err(); err != nil {
			return err
		}
		if whole.Usage.CompletionTokens == 0 {
			return errors.New("no usage")
		}
		return simulated(whole.Choices[0].Message.Content)
	})

	tried("tools", func() error {
		asked := question()
		asked.Tools = []openai.ChatCompletionToolUnionParam{openai.ChatCompletionFunctionTool(
			shared.FunctionDefinitionParam{Name: "get_weather", Parameters: parameters},
		)}
		first, err := client.Chat.Completions.New(ctx, asked)
		if err != nil {
			return err
		}
		calls := first.Choices[0].Message.ToolCalls
		if len(calls) != 1 || calls[0].Function.Arguments != `{"city":"simulated city"}` {
			return fmt.Errorf("called %v", calls)
		}
		asked.Messages = append(asked.Messages, first.Choices[0].Message.ToParam(), openai.ToolMessage("21 degrees", calls[0].ID))
		second, err := client.Chat.Completions.New(ctx, asked)
		if err != nil {
			return err
		}
		return simulated(second.Choices[0].Message.Content)
	})

	tried("responses", func() error {
		response, err := client.Responses.New(ctx, responses.ResponseNewParams{
			Model: model, Input: responses.ResponseNewParamsInputUnion{OfString: openai.String("Hello")},
		})
		if err != nil {
			return err
		}
		return simulated(response.OutputText())
	})

	tried("responses, streamed", func() error {
		stream := client.Responses.NewStreaming(ctx, responses.ResponseNewParams{
			Model: model, Input: responses.ResponseNewParamsInputUnion{OfString: openai.String("Hello")},
		})
		said := ""
		for stream.Next() {
			said += stream.Current().Delta
		}
		if err := stream.Err(); err != nil {
			return err
		}
		return simulated(said)
	})

	tried("embeddings", func() error {
		made, err := client.Embeddings.New(ctx, openai.EmbeddingNewParams{
			Model: "text-embedding-3-small", Dimensions: openai.Int(16),
			Input: openai.EmbeddingNewParamsInputUnion{OfArrayOfStrings: []string{"a", "b"}},
		})
		if err == nil && (len(made.Data) != 2 || len(made.Data[0].Embedding) != 16) {
			err = fmt.Errorf("made %d", len(made.Data))
		}
		return err
	})

	tried("audio", func() error {
		speech, err := client.Audio.Speech.New(ctx, openai.AudioSpeechNewParams{
			Model: "tts-1", Input: "Hi", Voice: openai.AudioSpeechNewParamsVoiceUnion{OfString: openai.String("alloy")},
			ResponseFormat: "wav",
		})
		if err != nil {
			return err
		}
		defer speech.Body.Close()
		sound, err := io.ReadAll(speech.Body)
		if err == nil && !strings.HasPrefix(string(sound), "RIFF") {
			err = errors.New("no sound")
		}
		return err
	})

	tried("files", func() error {
		text := strings.Repeat("one line\n", 10_000)
		file, err := client.Files.New(ctx, openai.FileNewParams{
			File: openai.File(strings.NewReader(text), "lines.txt", "text/plain"), Purpose: openai.FilePurposeAssistants,
		})
		if err != nil {
			return err
		}
		content, err := client.Files.Content(ctx, file.ID)
		if err != nil {
			return err
		}
		defer content.Body.Close()
		back, err := io.ReadAll(content.Body)
		if err == nil && string(back) != text {
			err = fmt.Errorf("%d bytes came back", len(back))
		}
		if err != nil {
			return err
		}
		_, err = client.Files.Delete(ctx, file.ID)
		return err
	})

	tried("a refusal shows its request id", func() error {
		_, err := client.Models.Get(ctx, model, option.WithAPIKey("sk-wrong"))
		var refused *openai.Error
		if !errors.As(err, &refused) || refused.StatusCode != 401 {
			return fmt.Errorf("was not refused: %v", err)
		}
		if refused.Response.Header.Get("x-request-id") == "" {
			return errors.New("no request id")
		}
		return nil
	})

	tried("retries", func() error {
		began := time.Now()
		_, err := client.Models.Get(ctx, model, option.WithMaxRetries(2),
			option.WithHeader("x-simulate", "status=503; headers=retry-after-ms:50"))
		var refused *openai.Error
		if !errors.As(err, &refused) || refused.StatusCode != 503 || time.Since(began) < 100*time.Millisecond {
			return fmt.Errorf("after %s: %v", time.Since(began), err)
		}
		return nil
	})

	tried("abort", func() error {
		leaving, leave := context.WithCancel(ctx)
		defer leave()
		stream := client.Chat.Completions.NewStreaming(leaving, question(), option.WithHeader("x-simulate", "pace=0.2"))
		for chunks := 0; stream.Next(); chunks++ {
			if chunks == 1 {
				leave()
			}
		}
		if !errors.Is(stream.Err(), context.Canceled) {
			return fmt.Errorf("ended with %v", stream.Err())
		}
		return nil
	})

	tried("a stream that breaks off is an error", func() error {
		stream := client.Chat.Completions.NewStreaming(ctx, question(), option.WithHeader("x-simulate", "cut=900"))
		for stream.Next() {
		}
		if stream.Err() == nil {
			return errors.New("ended as if nothing was")
		}
		return nil
	})

	if failed > 0 {
		os.Exit(1)
	}
}
