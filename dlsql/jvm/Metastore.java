package dlsql;

import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import org.apache.spark.sql.SparkSession;
import org.apache.spark.sql.catalyst.analysis.NoSuchDatabaseException;
import org.apache.spark.sql.catalyst.analysis.NoSuchPartitionsException;
import org.apache.spark.sql.catalyst.analysis.NoSuchTableException;
import org.apache.spark.sql.catalyst.analysis.PartitionsAlreadyExistException;
import org.apache.spark.sql.catalyst.catalog.CatalogDatabase;
import org.apache.spark.sql.catalyst.catalog.CatalogStorageFormat;
import org.apache.spark.sql.catalyst.catalog.CatalogTable;
import org.apache.spark.sql.catalyst.catalog.CatalogTablePartition;
import org.apache.spark.sql.catalyst.catalog.DropDatabaseEvent;
import org.apache.spark.sql.catalyst.catalog.ExternalCatalog;
import org.apache.spark.sql.catalyst.catalog.ExternalCatalogEvent;
import org.apache.spark.sql.catalyst.catalog.ExternalCatalogEventListener;
import org.apache.spark.sql.catalyst.catalog.ExternalCatalogWithListener;
import org.apache.spark.sql.execution.datasources.PartitioningUtils;
import scala.Option;
import scala.jdk.javaapi.CollectionConverters;

/** Partitions of metastore tables, one call each way, in JSON: the catalog looks them up while queries are analysed. */
public class Metastore {
  private static final String REVISION = "dlsql.revision";
  private final ExternalCatalog catalog;
  private final String database;

  public Metastore(SparkSession session, String database) {
    this.catalog = ((org.apache.spark.sql.classic.SparkSession) session).sharedState().externalCatalog();
    this.database = database;
    if (catalog instanceof ExternalCatalogWithListener) ((ExternalCatalogWithListener) catalog).addListener(new Forgetting(this));
  }

  /** DROP DATABASE knows of tables and not of models: what is registered in it goes, so that another database of its name begins empty. */
  public static class Forgetting implements ExternalCatalogEventListener {
    private final Metastore metastore;

    public Forgetting(Metastore metastore) {
      this.metastore = metastore;
    }

    public void onEvent(ExternalCatalogEvent event) {
      if (!(event instanceof DropDatabaseEvent)) return;
      try {
        metastore.forget(((DropDatabaseEvent) event).database());
      } catch (Exception e) {
        org.apache.spark.unsafe.Platform.throwException(e); // Spark logs what a listener throws
      }
    }
  }

  void forget(String namespace) throws Exception {
    if (namespace.equals(database)) return;
    Map values = new HashMap();
    values.put("namespace", namespace);
    boolean changed = false;
    for (String table : new String[] {"aliases", "models", "training_info"}) {
      for (Object name : (List) Language.Python.read(names(table, json(values)), List.class)) changed |= drop(table, json(name));
    }
    if (changed) revise(java.util.UUID.randomUUID().toString());
  }

  public boolean hasDatabase(String name) {
    return catalog.databaseExists(name);
  }

  private static scala.collection.immutable.Map immutable(Map values) {
    return (scala.collection.immutable.Map) scala.collection.immutable.Map$.MODULE$.from(CollectionConverters.asScala(values));
  }

  private static scala.collection.immutable.Map spec(String values) {
    return immutable((Map) Language.Python.read(values, Map.class));
  }

  private static String json(Object value) throws Exception {
    return new com.fasterxml.jackson.databind.ObjectMapper().writeValueAsString(value);
  }

  /** What the last change of the catalog left, null where there is none: a property of the database, the cheapest thing to ask a metastore. */
  public String revision() throws Exception {
    try {
      return (String) CollectionConverters.asJava(catalog.getDatabase(database).properties()).get(REVISION);
    } catch (Exception e) {
      if (e instanceof NoSuchDatabaseException) return null;
      throw e;
    }
  }

  public void revise(String revision) {
    CatalogDatabase old = catalog.getDatabase(database);
    Map properties = new HashMap(CollectionConverters.asJava(old.properties()));
    properties.put(REVISION, revision);
    catalog.alterDatabase(new CatalogDatabase(old.name(), old.description(), old.locationUri(), immutable(properties)));
  }

  public boolean exists(String table) {
    return catalog.tableExists(database, table);
  }

  /** The partitions that agree with `values`: [{"<column>": value, ..., "": location}, ...]; none where there is no such table. */
  public String partitions(String table, String values) throws Exception {
    List found = new ArrayList();
    try {
      for (Object one : Lists.list(catalog.listPartitions(database, table, Option.apply(spec(values))).toList())) {
        CatalogTablePartition partition = (CatalogTablePartition) one;
        Map row = new HashMap(CollectionConverters.asJava(partition.spec()));
        row.put("", partition.storage().locationUri().get().toString());
        found.add(row);
      }
    } catch (Exception e) {
      if (!isMissing(e)) throw e;
    }
    return json(found);
  }

  /** As `partitions` without the locations, which cost the metastore far more than the names. */
  public String names(String table, String values) throws Exception {
    List found = new ArrayList();
    try {
      for (Object name : Lists.list(catalog.listPartitionNames(database, table, Option.apply(spec(values))).toList())) {
        found.add(new HashMap(CollectionConverters.asJava(PartitioningUtils.parsePathFragment((String) name))));
      }
    } catch (Exception e) {
      if (!isMissing(e)) throw e;
    }
    return json(found);
  }

  private static boolean isMissing(Exception e) {
    return e instanceof NoSuchTableException || e instanceof NoSuchDatabaseException;
  }

  private CatalogTablePartition partition(String table, String values, String location) {
    CatalogTable owner = catalog.getTable(database, table);
    CatalogStorageFormat old = owner.storage();
    Option uri = Option.apply(new org.apache.hadoop.fs.Path(location).toUri());
    CatalogStorageFormat storage = new CatalogStorageFormat(uri, old.inputFormat(), old.outputFormat(), old.serde(), old.compressed(), old.properties(), old.serdeName());
    long now = System.currentTimeMillis();
    return new CatalogTablePartition(spec(values), storage, immutable(new HashMap()), now, -1L, Option.empty());
  }

  private static scala.collection.immutable.Seq one(Object value) {
    List list = new ArrayList();
    list.add(value);
    return Lists.seq(list);
  }

  /** Adds a partition; false if the metastore has it already. This is where a version is committed. */
  public boolean add(String table, String values, String location) throws Exception {
    try {
      catalog.createPartitions(database, table, one(partition(table, values, location)), false);
      return true;
    } catch (Exception e) {
      if (alreadyExists(e)) return false;
      throw e;
    }
  }

  private static boolean alreadyExists(Throwable e) {
    for (Throwable t = e; t != null; t = t.getCause()) {
      if (t instanceof PartitionsAlreadyExistException || t.getClass().getSimpleName().equals("AlreadyExistsException")) return true;
    }
    return false;
  }

  /** Points a partition to another location, in one step. */
  public void move(String table, String values, String location) {
    catalog.alterPartitions(database, table, one(partition(table, values, location)));
  }

  /** Takes a partition away and leaves its files; false if there is none. */
  public boolean drop(String table, String values) throws Exception {
    try {
      catalog.dropPartitions(database, table, one(spec(values)), false, false, true);
      return true;
    } catch (Exception e) {
      if (e instanceof NoSuchPartitionsException) return false;
      throw e;
    }
  }
}
