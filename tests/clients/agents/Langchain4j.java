import dev.langchain4j.model.chat.response.ChatResponse;
import dev.langchain4j.model.chat.response.StreamingChatResponseHandler;
import dev.langchain4j.model.ollama.OllamaChatModel;
import dev.langchain4j.model.ollama.OllamaStreamingChatModel;
import java.util.Map;
import java.util.concurrent.CountDownLatch;

/** Asks once, `chat` or `stream`, and prints each part on a line, then DONE, or ERROR and what it says. */
public class Langchain4j {
    public static void main(String[] arguments) throws InterruptedException {
        String url = System.getenv("URL");
        Map<String, String> headers = Map.of("Authorization", "Bearer " + System.getenv("KEY"));
        if (arguments[0].equals("chat")) {
            try {
                var model = OllamaChatModel.builder().baseUrl(url).modelName("tiny").customHeaders(headers).build();
                part(model.chat("the llama"));
                System.out.println("DONE");
            } catch (RuntimeException error) {
                System.out.println("ERROR " + error);
            }
            System.exit(0);
        }
        var ended = new CountDownLatch(1);
        var model = OllamaStreamingChatModel.builder().baseUrl(url).modelName("tiny").customHeaders(headers).build();
        model.chat("the llama", new StreamingChatResponseHandler() {
            public void onPartialResponse(String text) {
                part(text);
            }

            public void onCompleteResponse(ChatResponse response) {
                System.out.println("DONE");
                ended.countDown();
            }

            public void onError(Throwable error) {
                System.out.println("ERROR " + error);
                ended.countDown();
            }
        });
        ended.await();
        System.exit(0);
    }

    private static void part(String text) {
        System.out.println("PART " + text);
    }
}
