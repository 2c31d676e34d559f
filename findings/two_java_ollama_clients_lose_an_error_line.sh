#!/usr/bin/env bash
# Java spring-ai-ollama 2.0.1 and ollama4j 1.1.6: the line `{"error":".."}`, by which Ollama reports a failure in the middle of a
# stream, ends the call with a NullPointerException, because they expect a message in each line. The text of the error is
# lost. ollama4j also throws the body of a 503 away: its exception has an empty message. And of two streamed tool calls,
# each in a line of its own, its result has only the last.
#
# So users of these clients send the operator a stack trace that says nothing about the server. The text is only in the
# log of the server or gateway, which should log each such line with the id of the request.
#
# Output seen:
#   spring-ai, error line: NullPointerException, its text false
#   ollama4j, error line: NullPointerException, its text false
#   ollama4j, 503: OllamaException, its text false
#   ollama4j, two tool calls: clock
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
cd "$folder"
cat > pom.xml <<'XML'
<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>finding</groupId>
  <artifactId>finding</artifactId>
  <version>0</version>
  <dependencies>
    <dependency>
      <groupId>org.springframework.ai</groupId>
      <artifactId>spring-ai-ollama</artifactId>
      <version>2.0.1</version>
    </dependency>
    <dependency>
      <groupId>io.github.ollama4j</groupId>
      <artifactId>ollama4j</artifactId>
      <version>1.1.6</version>
    </dependency>
  </dependencies>
</project>
XML
mvn -q -B dependency:copy-dependencies -DoutputDirectory=lib > mvn.log 2>&1 || { cat mvn.log; exit 1; }
cat > Ask.java <<'JAVA'
import com.sun.net.httpserver.HttpServer;
import io.github.ollama4j.Ollama;
import io.github.ollama4j.models.chat.OllamaChatMessage;
import io.github.ollama4j.models.chat.OllamaChatMessageRole;
import io.github.ollama4j.models.chat.OllamaChatRequest;
import java.net.InetSocketAddress;
import java.util.Map;
import java.util.concurrent.Callable;
import java.util.stream.Collectors;
import org.springframework.ai.chat.prompt.Prompt;
import org.springframework.ai.ollama.OllamaChatModel;
import org.springframework.ai.ollama.api.OllamaApi;
import org.springframework.ai.ollama.api.OllamaChatOptions;

class Ask {
  static final String ERROR = "{\"error\":\"the engine is gone\"}\n";
  static final String END = line("\"content\":\"\"", true);
  static final Map<String, String> STREAMS = Map.of(
      "error", line("\"content\":\"hello\"", false) + ERROR,
      "full", ERROR,
      "tools", line(call(0, "weather"), false) + line(call(1, "clock"), false) + END);

  static String line(String message, boolean done) {
    return "{\"model\":\"m\",\"created_at\":\"2026-01-01T00:00:00Z\",\"message\":{\"role\":\"assistant\"," + message
        + "},\"done\":" + done + (done ? ",\"done_reason\":\"stop\"" : "") + "}\n";
  }

  static String call(int index, String name) {
    return "\"content\":\"\",\"tool_calls\":[{\"id\":\"call_" + index + "\",\"function\":{\"index\":" + index
        + ",\"name\":\"" + name + "\",\"arguments\":{}}}]";
  }

  static String seen(Callable<String> ask) {
    try {
      return ask.call();
    } catch (Exception error) {
      Throwable cause = error.getCause() == null ? error : error.getCause();
      return cause.getClass().getSimpleName() + ", its text " + error.toString().contains("engine");
    }
  }

  static String spring(String base) {
    var model = OllamaChatModel.builder().ollamaApi(OllamaApi.builder().baseUrl(base).build())
        .options(OllamaChatOptions.builder().model("m").build()).build();
    model.stream(new Prompt("hi")).blockLast();
    return "complete";
  }

  static String ollama4j(String base) throws Exception {
    var request = OllamaChatRequest.builder().withModel("m").withMessage(OllamaChatMessageRole.USER, "hi").build();
    request.setUseTools(false);
    OllamaChatMessage message = new Ollama(base).chat(request, part -> {}).getResponseModel().getMessage();
    return message.getToolCalls().stream().map(each -> each.getFunction().getName()).collect(Collectors.joining(", "));
  }

  public static void main(String[] none) throws Exception {
    var server = HttpServer.create(new InetSocketAddress("127.0.0.1", 0), 0);
    server.createContext("/", exchange -> {
      exchange.getRequestBody().readAllBytes();
      String name = exchange.getRequestURI().getPath().split("/")[1];
      exchange.getResponseHeaders().set("Content-Type", "application/x-ndjson");
      exchange.sendResponseHeaders(name.equals("full") ? 503 : 200, 0);
      try (var body = exchange.getResponseBody()) {
        body.write(STREAMS.get(name).getBytes());
      }
    });
    server.start();
    String base = "http://127.0.0.1:" + server.getAddress().getPort();
    System.out.println("spring-ai, error line: " + seen(() -> spring(base + "/error")));
    System.out.println("ollama4j, error line: " + seen(() -> ollama4j(base + "/error")));
    System.out.println("ollama4j, 503: " + seen(() -> ollama4j(base + "/full")));
    System.out.println("ollama4j, two tool calls: " + seen(() -> ollama4j(base + "/tools")));
    System.exit(0);
  }
}
JAVA
seen="$(java -cp "lib/*" Ask.java 2> java.log | grep -E '^(spring-ai|ollama4j), ')" || { cat java.log; exit 1; }
echo "$seen"
expected="spring-ai, error line: NullPointerException, its text false
ollama4j, error line: NullPointerException, its text false
ollama4j, 503: OllamaException, its text false
ollama4j, two tool calls: clock"
[ "$seen" = "$expected" ] || { echo "this has changed; expected:"; echo "$expected"; exit 1; }
