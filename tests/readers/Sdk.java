import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.net.URI;
import java.nio.charset.StandardCharsets;
import java.util.zip.GZIPInputStream;
import software.amazon.awssdk.regions.Region;
import software.amazon.awssdk.services.s3.S3Client;

/** Counts the lines of gzip objects in the stream of an answer to GetObject. */
public class Sdk {
    public static void main(String[] arguments) throws Exception {
        try (S3Client s3 = S3Client.builder().endpointOverride(URI.create(arguments[0]))
                .region(Region.US_EAST_1).forcePathStyle(true).build()) {
            for (int n = 2; n < arguments.length; n++) {
                String key = arguments[n];
                long lines = 0;
                try (BufferedReader reader = new BufferedReader(new InputStreamReader(
                        new GZIPInputStream(s3.getObject(
                                request -> request.bucket(arguments[1]).key(key))),
                        StandardCharsets.UTF_8))) {
                    while (reader.readLine() != null) {
                        lines++;
                    }
                }
                System.out.println("counted\tGZIPInputStream over GetObject of the AWS SDK\t"
                        + key + "\t" + lines);
            }
        }
    }
}
