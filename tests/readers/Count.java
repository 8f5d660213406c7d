import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.net.URL;
import java.nio.charset.StandardCharsets;
import java.util.zip.GZIPInputStream;

/** Counts the lines of a gzip object as a reader does that wraps a network stream. */
public class Count {
    public static void main(String[] arguments) throws Exception {
        for (String address : arguments) {
            long lines = 0;
            try (BufferedReader reader = new BufferedReader(new InputStreamReader(
                    new GZIPInputStream(new URL(address).openStream()), StandardCharsets.UTF_8))) {
                while (reader.readLine() != null) {
                    lines++;
                }
            }
            System.out.println(lines);
        }
    }
}
