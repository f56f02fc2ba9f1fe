package dlsql;

import java.util.List;
import scala.collection.immutable.Seq;

/** Java's lists and Scala's. */
public class Lists {
  public static Seq seq(List values) {
    return scala.jdk.javaapi.CollectionConverters.asScala(values).toSeq();
  }

  public static List list(Object values) {
    return new java.util.ArrayList(scala.jdk.javaapi.CollectionConverters.asJava((scala.collection.Seq) values));
  }
}
