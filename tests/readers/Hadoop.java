import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.nio.charset.StandardCharsets;
import java.util.zip.GZIPInputStream;
import org.apache.hadoop.conf.Configuration;
import org.apache.hadoop.fs.FileSystem;
import org.apache.hadoop.fs.Path;
import org.apache.hadoop.mapreduce.InputSplit;
import org.apache.hadoop.mapreduce.Job;
import org.apache.hadoop.mapreduce.RecordReader;
import org.apache.hadoop.mapreduce.TaskAttemptID;
import org.apache.hadoop.mapreduce.lib.input.FileInputFormat;
import org.apache.hadoop.mapreduce.lib.input.TextInputFormat;
import org.apache.hadoop.mapreduce.task.TaskAttemptContextImpl;

/** Counts the lines of gzip objects over S3A: by Hadoop's codec, and by the JDK's stream. */
public class Hadoop {
    public static void main(String[] arguments) throws Exception {
        Configuration configuration = new Configuration();
        configuration.set("fs.s3a.endpoint", arguments[0]);
        configuration.set("fs.s3a.endpoint.region", "us-east-1");
        configuration.setBoolean("fs.s3a.path.style.access", true);
        configuration.setBoolean("fs.s3a.connection.ssl.enabled", false);
        for (int n = 2; n < arguments.length; n++) {
            Path path = new Path("s3a://" + arguments[1] + "/" + arguments[n]);
            System.out.println("counted\tTextInputFormat over S3A\t"
                    + arguments[n] + "\t" + byTheCodec(configuration, path));
            System.out.println("counted\tGZIPInputStream over S3A\t"
                    + arguments[n] + "\t" + byTheJdk(configuration, path));
        }
    }

    private static long byTheCodec(Configuration configuration, Path path) throws Exception {
        Job job = Job.getInstance(configuration);
        FileInputFormat.addInputPath(job, path);
        TextInputFormat format = new TextInputFormat();
        TaskAttemptContextImpl context =
                new TaskAttemptContextImpl(job.getConfiguration(), new TaskAttemptID());
        long lines = 0;
        for (InputSplit split : format.getSplits(job)) {
            try (RecordReader<?, ?> reader = format.createRecordReader(split, context)) {
                reader.initialize(split, context);
                while (reader.nextKeyValue()) {
                    lines++;
                }
            }
        }
        return lines;
    }

    private static long byTheJdk(Configuration configuration, Path path) throws Exception {
        long lines = 0;
        FileSystem files = path.getFileSystem(configuration);
        try (BufferedReader reader = new BufferedReader(new InputStreamReader(
                new GZIPInputStream(files.open(path)), StandardCharsets.UTF_8))) {
            while (reader.readLine() != null) {
                lines++;
            }
        }
        return lines;
    }
}
