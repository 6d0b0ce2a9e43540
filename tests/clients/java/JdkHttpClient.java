// The JDK's own HttpClient as it comes: to a server without TLS it offers h2c with every request.
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpRequest.BodyPublishers;
import java.net.http.HttpResponse;
import java.net.http.HttpResponse.BodyHandlers;
import java.time.Duration;
import java.util.concurrent.Callable;
import java.util.stream.Collectors;

public class JdkHttpClient {
    static final String BASE = System.getenv("OPENAI_BASE_URL");
    static final String BODY =
        "{\"model\": \"gpt-4o-mini\", \"messages\": [{\"role\": \"user\", \"content\": \"Hello\"}]%s}";
    static int failed = 0;

    static void tried(String name, Callable<String> what) {
        String why;
        try {
            why = what.call();
        } catch (Exception error) {
            why = error.toString();
        }
        if (!why.isEmpty()) failed++;
        System.out.println(why.isEmpty() ? "ok " + name : "failed " + name + ": " + why.replace('\n', ' '));
    }

    static HttpRequest.Builder request(String path) {
        return HttpRequest.newBuilder(URI.create(BASE + path))
            .timeout(Duration.ofSeconds(20))
            .header("Authorization", "Bearer " + System.getenv("OPENAI_API_KEY"))
            .header("Content-Type", "application/json");
    }

    static String unless(boolean right, HttpResponse<String> answer) {
        return right ? "" : answer.statusCode() + " " + answer.body();
    }

    public static void main(String[] arguments) {
        for (HttpClient.Version version : HttpClient.Version.values()) {
            HttpClient client = HttpClient.newBuilder().version(version).build();
            String by = " as " + version;
            tried("GET" + by, () -> {
                var answer = client.send(request("/models").build(), BodyHandlers.ofString());
                return unless(answer.statusCode() == 200 && answer.body().contains("gpt-4o-mini"), answer);
            });
            tried("POST" + by, () -> {
                var asked = request("/chat/completions").POST(BodyPublishers.ofString(BODY.formatted(""))).build();
                var answer = client.send(asked, BodyHandlers.ofString());
                return unless(answer.statusCode() == 200 && answer.body().contains("Simulated answer"), answer);
            });
            tried("POST of unknown length" + by, () -> {
                byte[] body = BODY.formatted("").getBytes();
                var sent = BodyPublishers.ofInputStream(() -> new java.io.ByteArrayInputStream(body));
                var answer = client.send(request("/chat/completions").POST(sent).build(), BodyHandlers.ofString());
                return unless(answer.statusCode() == 200 && answer.body().contains("Simulated answer"), answer);
            });
            tried("stream" + by, () -> {
                var body = BodyPublishers.ofString(BODY.formatted(", \"stream\": true"));
                var answer = client.send(request("/chat/completions").POST(body).build(), BodyHandlers.ofLines());
                String said = answer.body().collect(Collectors.joining("\n"));
                return said.contains("data: [DONE]") ? "" : answer.statusCode() + " " + said;
            });
            tried("DELETE of nothing" + by, () -> {
                var answer = client.send(request("/files/file-none").DELETE().build(), BodyHandlers.ofString());
                return unless(answer.statusCode() == 404, answer);
            });
            tried("100 in a row" + by, () -> {
                for (int n = 0; n < 100; n++) {
                    var body = BodyPublishers.ofString(BODY.formatted(""));
                    var answer = client.send(request("/chat/completions").POST(body).build(), BodyHandlers.ofString());
                    if (answer.statusCode() != 200) return n + ": " + answer.statusCode() + " " + answer.body();
                }
                return "";
            });
        }
        System.exit(failed > 0 ? 1 : 0);
    }
}
