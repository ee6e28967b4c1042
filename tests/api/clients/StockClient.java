import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;

/** The JDK's own client, as it comes: over plain HTTP it asks for an upgrade to HTTP/2 with the body behind it. */
public class StockClient {
    public static void main(String[] args) throws Exception {
        HttpClient.Version version = HttpClient.Version.valueOf(args[1]);
        HttpClient client = HttpClient.newBuilder().version(version).build();
        String body = "{\"model\": \"tts-1\", \"voice\": \"alloy\", \"response_format\": \"pcm\", "
            + "\"input\": \"Hello there, this is a test.\"}";
        HttpRequest request = HttpRequest.newBuilder(URI.create(args[0] + "/audio/speech"))
            .header("Content-Type", "application/json")
            .POST(HttpRequest.BodyPublishers.ofString(body))
            .build();
        HttpResponse<byte[]> answer = client.send(request, HttpResponse.BodyHandlers.ofByteArray());
        System.out.printf("{\"status\": %d, \"bytes\": %d}%n", answer.statusCode(), answer.body().length);
    }
}
