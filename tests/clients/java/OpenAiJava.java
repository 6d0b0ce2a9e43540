// openai-java: what services do with it, and what it shows of what went wrong.
import com.openai.client.OpenAIClient;
import com.openai.client.okhttp.OpenAIOkHttpClient;
import com.openai.core.http.StreamResponse;
import com.openai.errors.OpenAIServiceException;
import com.openai.models.chat.completions.ChatCompletionChunk;
import com.openai.models.chat.completions.ChatCompletionCreateParams;
import com.openai.models.chat.completions.StructuredChatCompletionCreateParams;
import com.openai.models.embeddings.EmbeddingCreateParams;
import com.openai.models.files.FileCreateParams;
import com.openai.models.files.FilePurpose;
import com.openai.models.responses.ResponseCreateParams;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.concurrent.Callable;

public class OpenAiJava {
    static int failed = 0;

    static void tried(String name, Callable<Boolean> what) {
        String why = "it was not so";
        try {
            if (what.call()) why = "";
        } catch (Exception error) {
            why = error.toString();
        }
        if (!why.isEmpty()) failed++;
        System.out.println(why.isEmpty() ? "ok " + name : "failed " + name + ": " + why.replace('\n', ' '));
    }

    static ChatCompletionCreateParams.Builder question() {
        return ChatCompletionCreateParams.builder().model("gpt-4o-mini").addUserMessage("What is the weather in Paris?");
    }

    public static class Place {
        public String city;
        public int people;
    }

    public static class GetWeather {
        public String city;
    }

    public static void main(String[] arguments) {
        OpenAIClient client = OpenAIOkHttpClient.builder().fromEnv().maxRetries(0).build();

        tried("models", () -> client.models().list().autoPager().stream().anyMatch(m -> m.id().equals("gpt-4o-mini")));

        tried("chat", () -> client.chat().completions().create(question().build())
            .choices().get(0).message().content().get().startsWith("Simulated answer"));

        tried("stream", () -> {
            StringBuilder said = new StringBuilder();
            try (StreamResponse<ChatCompletionChunk> stream = client.chat().completions().createStreaming(question().build())) {
                stream.stream().flatMap(chunk -> chunk.choices().stream())
                    .forEach(choice -> choice.delta().content().ifPresent(said::append));
            }
            return said.toString().startsWith("Simulated answer");
        });

        tried("tools", () -> {
            var chat = client.chat().completions().create(question().addTool(GetWeather.class).build());
            var call = chat.choices().get(0).message().toolCalls().get().get(0).asFunction().function();
            return call.arguments(GetWeather.class).city.equals("simulated city");
        });

        tried("structured", () -> {
            StructuredChatCompletionCreateParams<Place> asked = question().responseFormat(Place.class).build();
            Place place = client.chat().completions().create(asked).choices().get(0).message().content().get();
            return place.city.equals("simulated city") && place.people == 1;
        });

        tried("responses", () -> client.responses()
            .create(ResponseCreateParams.builder().model("gpt-4o-mini").input("Hello").build())
            .output().get(0).asMessage().content().get(0).asOutputText().text().startsWith("Simulated answer"));

        tried("embeddings", () -> client.embeddings()
            .create(EmbeddingCreateParams.builder().model("text-embedding-3-small").inputOfArrayOfStrings(List.of("a", "b"))
                .dimensions(16).build())
            .data().size() == 2);

        tried("files", () -> {
            Path path = Files.createTempFile("lines", ".txt");
            Files.writeString(path, "one line\n".repeat(10_000));
            var file = client.files().create(FileCreateParams.builder().file(path).purpose(FilePurpose.ASSISTANTS).build());
            byte[] back;
            try (var content = client.files().content(file.id())) {
                back = content.body().readAllBytes();
            }
            client.files().delete(file.id());
            return back.length == Files.size(path);
        });

        tried("a refusal shows its request id", () -> {
            try {
                OpenAIOkHttpClient.builder().fromEnv().apiKey("sk-wrong").maxRetries(0).build().models().list();
            } catch (OpenAIServiceException refused) {
                return refused.statusCode() == 401 && !refused.headers().values("x-request-id").isEmpty();
            }
            return false;
        });

        tried("a stream that breaks off is an error", () -> {
            var asked = question().putAdditionalHeader("x-simulate", "cut=900").build();
            try (StreamResponse<ChatCompletionChunk> stream = client.chat().completions().createStreaming(asked)) {
                stream.stream().forEach(chunk -> {});
            } catch (RuntimeException broken) {
                return true;
            }
            return false;
        });

        System.exit(failed > 0 ? 1 : 0);
    }
}
