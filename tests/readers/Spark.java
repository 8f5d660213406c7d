import org.apache.hadoop.io.LongWritable;
import org.apache.hadoop.io.Text;
import org.apache.hadoop.mapreduce.lib.input.TextInputFormat;
import org.apache.spark.api.java.JavaSparkContext;
import org.apache.spark.sql.SparkSession;

/** Counts the lines of gzip objects in Spark's local mode, over S3A. */
public class Spark {
    public static void main(String[] arguments) {
        SparkSession spark = SparkSession.builder().master("local[1]")
                .config("spark.ui.enabled", false)
                .config("spark.driver.host", "127.0.0.1")
                .config("spark.driver.bindAddress", "127.0.0.1")
                .config("spark.hadoop.fs.s3a.endpoint", arguments[0])
                .config("spark.hadoop.fs.s3a.endpoint.region", "us-east-1")
                .config("spark.hadoop.fs.s3a.path.style.access", true)
                .config("spark.hadoop.fs.s3a.connection.ssl.enabled", false)
                .getOrCreate();
        JavaSparkContext context = JavaSparkContext.fromSparkContext(spark.sparkContext());
        for (int n = 2; n < arguments.length; n++) {
            String path = "s3a://" + arguments[1] + "/" + arguments[n];
            say("Spark read.text", arguments[n], spark.read().text(path).count());
            say("Spark textFile", arguments[n], context.textFile(path).count());
            say("Spark newAPIHadoopFile", arguments[n], context.newAPIHadoopFile(path,
                    TextInputFormat.class, LongWritable.class, Text.class,
                    context.hadoopConfiguration()).count());
        }
        spark.stop();
    }

    private static void say(String reader, String key, long lines) {
        System.out.println("counted\t" + reader + "\t" + key + "\t" + lines);
    }
}
