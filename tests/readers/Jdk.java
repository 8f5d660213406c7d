import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.net.URL;
import java.nio.charset.StandardCharsets;
import java.util.zip.GZIPInputStream;

/** Counts the lines of gzip objects as a reader does that wraps the JDK's own network stream. */
public class Jdk {
    public static void main(String[] arguments) throws Exception {
        for (int n = 2; n < arguments.length; n++) {
            URL url = new URL(arguments[0] + "/" + arguments[1] + "/" + arguments[n]);
            long lines = 0;
            try (BufferedReader reader = new BufferedReader(new InputStreamReader(
                    new GZIPInputStream(url.openStream()), StandardCharsets.UTF_8))) {
                while (reader.readLine() != null) {
                    lines++;
                }
            }
            System.out.println("counted\tGZIPInputStream over URL.openStream\t"
                    + arguments[n] + "\t" + lines);
        }
    }
}
