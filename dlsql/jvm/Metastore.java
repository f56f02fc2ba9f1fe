package dlsql;

import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import org.apache.spark.sql.SparkSession;
import org.apache.spark.sql.catalyst.analysis.NoSuchPartitionsException;
import org.apache.spark.sql.catalyst.analysis.PartitionsAlreadyExistException;
import org.apache.spark.sql.catalyst.catalog.CatalogStorageFormat;
import org.apache.spark.sql.catalyst.catalog.CatalogTable;
import org.apache.spark.sql.catalyst.catalog.CatalogTablePartition;
import org.apache.spark.sql.catalyst.catalog.ExternalCatalog;
import scala.Option;

/** Partitions of metastore tables, one call each way: the catalog looks them up while queries are analysed. */
public class Metastore {
  private final ExternalCatalog catalog;
  private final String database;

  public Metastore(SparkSession session, String database) {
    this.catalog = ((org.apache.spark.sql.classic.SparkSession) session).sharedState().externalCatalog();
    this.database = database;
  }

  private static scala.collection.immutable.Map spec(Map values) {
    return (scala.collection.immutable.Map) scala.collection.immutable.Map$.MODULE$.from(scala.jdk.javaapi.CollectionConverters.asScala(values));
  }

  /** The partitions that agree with `values`, as JSON: [{"<column>": value, ..., "": location}, ...]; none where there is no such table. */
  public String list(String table, Map values) throws Exception {
    List found = new ArrayList();
    if (!catalog.tableExists(database, table)) return "[]";
    for (Object one : Functions.unlist(catalog.listPartitions(database, table, Option.apply(spec(values))).toList())) {
      CatalogTablePartition partition = (CatalogTablePartition) one;
      Map row = new java.util.HashMap(scala.jdk.javaapi.CollectionConverters.asJava(partition.spec()));
      row.put("", partition.storage().locationUri().get().toString());
      found.add(row);
    }
    return new com.fasterxml.jackson.databind.ObjectMapper().writeValueAsString(found);
  }

  private CatalogTablePartition partition(String table, Map values, String location) {
    CatalogTable owner = catalog.getTable(database, table);
    CatalogStorageFormat old = owner.storage();
    Option uri = Option.apply(new org.apache.hadoop.fs.Path(location).toUri());
    CatalogStorageFormat storage = new CatalogStorageFormat(uri, old.inputFormat(), old.outputFormat(), old.serde(), old.compressed(), old.properties(), old.serdeName());
    long now = System.currentTimeMillis();
    scala.collection.immutable.Map none = (scala.collection.immutable.Map) scala.collection.immutable.Map$.MODULE$.empty();
    return new CatalogTablePartition(spec(values), storage, none, now, -1L, Option.empty());
  }

  private static scala.collection.immutable.Seq one(Object value) {
    List list = new ArrayList();
    list.add(value);
    return Functions.list(list);
  }

  /** Adds a partition; false if the metastore has it already. This is where a version is committed. */
  public boolean add(String table, Map values, String location) {
    try {
      catalog.createPartitions(database, table, one(partition(table, values, location)), false);
      return true;
    } catch (Exception e) {
      if (alreadyExists(e)) return false;
      org.apache.spark.unsafe.Platform.throwException(e);
      return false;
    }
  }

  private static boolean alreadyExists(Throwable e) {
    for (Throwable t = e; t != null; t = t.getCause()) {
      if (t instanceof PartitionsAlreadyExistException || t.getClass().getSimpleName().equals("AlreadyExistsException")) return true;
    }
    return false;
  }

  /** Points a partition to another location, in one step. */
  public void move(String table, Map values, String location) {
    catalog.alterPartitions(database, table, one(partition(table, values, location)));
  }

  /** Takes a partition away and leaves its files; false if there is none. */
  public boolean drop(String table, Map values) throws Exception {
    try {
      catalog.dropPartitions(database, table, one(spec(values)), false, false, true);
      return true;
    } catch (Exception e) {
      if (e instanceof NoSuchPartitionsException) return false;
      throw e;
    }
  }
}
