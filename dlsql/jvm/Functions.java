package dlsql;

import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import org.apache.spark.sql.Column;
import org.apache.spark.sql.SparkSession;
import org.apache.spark.sql.catalyst.InternalRow;
import org.apache.spark.sql.catalyst.analysis.UnresolvedRelation;
import org.apache.spark.sql.catalyst.expressions.*;
import org.apache.spark.sql.catalyst.plans.logical.LogicalPlan;
import org.apache.spark.sql.catalyst.trees.TreeNode;
import org.apache.spark.sql.catalyst.util.MapData;
import org.apache.spark.sql.execution.python.UserDefinedPythonFunction;
import org.apache.spark.sql.internal.SQLConf;
import org.apache.spark.sql.types.*;
import scala.collection.immutable.Seq;

/** Functions: at analysis Python is asked which model the call names and how its arguments feed it; the expressions are made here. */
public class Functions {

  static SparkSession active() {
    return org.apache.spark.sql.classic.SparkSession.active();
  }

  /** The database that names in the text are of: a view's own, where a view is read; null for the session's current one. */
  static String namespace() {
    List parts = Lists.list(org.apache.spark.sql.catalyst.analysis.AnalysisContext.get().catalogAndNamespace());
    return parts.size() == 2 ? (String) parts.get(1) : null;
  }

  /** The value of a constant argument as text, a map as a map of texts, anything else as null. */
  static Object constant(Expression e) {
    if (!e.resolved() || !e.foldable()) return null;
    Object value = e.eval(InternalRow.empty());
    if (value instanceof MapData) {
      MapData map = (MapData) value;
      MapType type = (MapType) e.dataType();
      Map texts = new HashMap();
      for (int i = 0; i < map.numElements(); i++) {
        Object item = map.valueArray().get(i, type.valueType());
        texts.put(map.keyArray().get(i, type.keyType()).toString(), item == null ? null : item.toString());
      }
      return texts;
    }
    return value == null ? null : value.toString();
  }

  static Map describe(String name, DataType type) {
    Map field = new HashMap();
    field.put("name", name);
    field.put("type", type instanceof org.apache.spark.ml.linalg.VectorUDT ? "vector" : type.catalogString());
    return field;
  }

  /** A scalar function of the language, as a function builder. */
  public static class Scalar extends scala.runtime.AbstractFunction1 {
    private final Language.Python python;
    private final String name;

    public Scalar(Language.Python python, String name) {
      this.python = python;
      this.name = name;
    }

    public Object apply(Object given) {
      List args = new ArrayList();
      List names = new ArrayList(); // of the arguments written as name => value, null for the others
      for (Object arg : Lists.list(given)) {
        boolean named = arg instanceof NamedArgumentExpression;
        names.add(named ? ((NamedArgumentExpression) arg).key() : null);
        args.add(named ? ((NamedArgumentExpression) arg).value() : arg);
      }
      Expression first = args.isEmpty() ? null : (Expression) args.get(0);
      boolean value = first != null && first.resolved() && first.dataType() instanceof BinaryType;
      Map question = Language.Python.question(value ? "bind_value" : "bind");
      question.put("function", name);
      question.put("namespace", namespace());
      question.put("model", first == null ? null : value ? stored(first) : constant(first));
      if (value) {
        question.put("column", first instanceof NamedExpression ? ((NamedExpression) first).name() : null);
        question.put("signature", signature(first));
        question.put("answer", args.size() > 2 ? constant((Expression) args.get(2)) : null);
        question.put("count", Integer.valueOf(args.size()));
      }
      List fields = new ArrayList();
      boolean struct = args.size() >= 2 && (value || args.size() == 2) && ((Expression) args.get(1)).dataType() instanceof StructType;
      Expression whole = struct ? (Expression) args.get(1) : null;
      if (struct) {
        for (StructField f : ((StructType) whole.dataType()).fields()) fields.add(describe(f.name(), f.dataType()));
      } else {
        for (int i = 1; i < args.size(); i++) {
          Expression e = (Expression) args.get(i);
          String column = e instanceof NamedExpression ? ((NamedExpression) e).name() : null;
          fields.add(describe(names.get(i) == null ? column : (String) names.get(i), e.dataType()));
        }
      }
      question.put("struct", Boolean.valueOf(struct));
      question.put("arguments", fields);
      question.put("named", names);
      List answer = (List) python.ask(active(), question);
      UserDefinedPythonFunction udf = (UserDefinedPythonFunction) answer.get(0);
      Map plan = (Map) Language.Python.read((String) answer.get(1), Map.class);

      boolean strict = ((Boolean) plan.get("strict")).booleanValue();
      Expression scored = whole == null || !whole.nullable() ? Wanted.TRUE : new IsNotNull(whole);
      List inputs = new ArrayList();
      if (value) inputs.add(first);
      for (Object one : (List) plan.get("inputs")) {
        Map input = (Map) one;
        int place = ((Integer) input.get("place")).intValue();
        Expression e = struct ? field(whole, place) : (Expression) args.get(place + 1);
        Expression converted = converted(e, (String) input.get("cast"));
        if (!strict && converted instanceof Cast) { // a value that the cast has no room for is not a value that is missing
          converted = new TryEval(converted);
          scored = new And(scored, new Or(new IsNull(e), new IsNotNull(converted)));
        }
        inputs.add(converted);
      }
      Asked asked = new Asked(value ? null : question, plan);
      if (answer.size() > 2) { // a model that was trained here: its inputs are packed
        Expression packed = Encode.of((Encoder) answer.get(2), scored, inputs, asked);
        inputs = new ArrayList();
        inputs.add(packed);
      } else {
        inputs.set(0, new Wanted(scored, Wanted.TRUE, (Expression) inputs.get(0), asked));
      }
      Expression called = (Expression) udf.builder(Lists.seq(inputs));
      String part = (String) plan.get("answer");
      return answer.size() == 2 ? answer(called, part) : new Answer(called, (Answers) answer.get(3), part, DataType.fromDDL((String) plan.get("type")));
    }

    /** The bytes of a constant network, in base64. */
    private static String stored(Expression e) {
      Object value = e.foldable() ? e.eval(InternalRow.empty()) : null;
      return value == null ? null : java.util.Base64.getEncoder().encodeToString((byte[]) value);
    }

    /** What TRAIN left of a network's signature with the column that holds it. */
    private static String signature(Expression e) {
      if (!(e instanceof NamedExpression) || !((NamedExpression) e).metadata().contains(SIGNATURE)) return null;
      return ((NamedExpression) e).metadata().getString(SIGNATURE);
    }

    /** Spark's own ANSI cast to the type that the model was trained on; an ML vector becomes an array. */
    static Expression converted(Expression e, String type) {
      if (type == null) return e;
      if (type.equals("vector")) {
        Column column = org.apache.spark.sql.classic.ExpressionUtils.column(e);
        Column array = org.apache.spark.ml.functions.vector_to_array(column, "float64");
        return (Expression) org.apache.spark.sql.classic.ColumnNodeToExpressionConverter$.MODULE$.apply(array.node());
      }
      return new Cast(e, DataType.fromDDL(type), scala.Option.apply(SQLConf.get().sessionLocalTimeZone()), EvalMode.ANSI());
    }

    /** What the function shows of the network's whole answer. The network's call is the same for each, so that Spark runs it once. */
    private static Expression answer(Expression whole, String part) {
      if (part.equals("whole")) return whole;
      if (part.equals("value")) {
        List named = new ArrayList();
        named.add(Literal.create("value", StringType$.MODULE$));
        named.add(whole);
        return new CreateNamedStruct(Lists.seq(named));
      }
      if (part.equals("label")) return new GetStructField(whole, 0, scala.Option.apply("label"));
      return new MapFromEntries(new GetStructField(whole, 2, scala.Option.apply("probabilities")));
    }
  }

  /**
   * A stream is analysed once, and keeps the versions that its models' names meant then. Where spark.dlsql.streams_follow_aliases says so each
   * of its batches, which Spark optimizes one by one, asks for them anew.
   */
  public static class Following extends scala.runtime.AbstractFunction1 {
    private final Language.Python python;

    public Following(Language.Python python) {
      this.python = python;
    }

    public Object apply(Object session) {
      return new Follow(python);
    }
  }

  public static class Follow extends org.apache.spark.sql.catalyst.rules.Rule {
    private final Language.Python python;

    Follow(Language.Python python) {
      this.python = python;
    }

    public String ruleName() {
      return "dlsql.Follow";
    }

    public TreeNode apply(TreeNode plan) {
      boolean follows = ((LogicalPlan) plan).isStreaming() && SQLConf.get().getConfString("spark.dlsql.streams_follow_aliases", "false").equalsIgnoreCase("true");
      return follows ? ((LogicalPlan) plan).transformAllExpressions(new Again(python)) : plan;
    }
  }

  /** The predictions that are not asked for this batch yet: those whose outputs the JVM reads together with who reads them. */
  public static class Again extends scala.runtime.AbstractPartialFunction {
    private final Language.Python python;

    private final Map answers = new HashMap();  // by question: all rows of a batch share one

    Again(Language.Python python) {
      this.python = python;
    }

    public boolean isDefinedAt(Object e) {
      boolean reads = e instanceof Answer;
      Object call = reads ? ((Answer) e).children().apply(0) : e;
      if (!(call instanceof PythonUDF) || ((PythonUDF) call).children().isEmpty()) return false;
      Object first = ((PythonUDF) call).children().apply(0);
      return first instanceof Inputs && first instanceof Encode == reads && ((Inputs) first).asked().isOpen();
    }

    public Object applyOrElse(Object e, scala.Function1 otherwise) {
      if (!isDefinedAt(e)) return otherwise.apply(e);
      Answer reader = e instanceof Answer ? (Answer) e : null;
      List arguments = Lists.list(((Expression) (reader == null ? e : reader.children().apply(0))).children());
      Inputs inputs = (Inputs) arguments.get(0);
      Map question = inputs.asked().again();
      if (!answers.containsKey(question)) answers.put(question, python.ask(active(), question));
      List answer = (List) answers.get(question);
      Asked asked = new Asked(null, (Map) Language.Python.read((String) answer.get(1), Map.class));
      arguments.set(0, inputs.of(asked, reader == null ? null : (Encoder) answer.get(2)));
      Expression call = (Expression) ((UserDefinedPythonFunction) answer.get(0)).builder(Lists.seq(arguments));
      return reader == null ? call : reader.of(call, (Answers) answer.get(3));
    }
  }

  /** TRAIN(model_type, features, label [, options]), as a function builder: an aggregate whose column carries the network's signature. */
  public static class Aggregate extends scala.runtime.AbstractFunction1 {
    private final Language.Python python;
    private final String name;

    public Aggregate(Language.Python python, String name) {
      this.python = python;
      this.name = name;
    }

    public Object apply(Object given) {
      List args = Lists.list(given);
      Map question = Language.Python.question("train");
      List arguments = new ArrayList();
      for (Object arg : args) {
        Expression e = (Expression) arg;
        arguments.add(describe(e instanceof NamedExpression ? ((NamedExpression) e).name() : null, e.dataType()));
      }
      question.put("arguments", arguments);
      Expression features = args.size() > 1 ? (Expression) args.get(1) : null;
      List fields = new ArrayList();
      boolean struct = features != null && features.dataType() instanceof StructType;
      if (struct) {
        for (StructField f : ((StructType) features.dataType()).fields()) fields.add(describe(f.name(), f.dataType()));
      }
      question.put("fields", struct ? fields : null);
      question.put("model_type", args.isEmpty() ? null : constant((Expression) args.get(0)));
      // Without the names in struct(5 AS batch_size), which Spark does not count as constant.
      Expression options = args.size() > 3
          ? org.apache.spark.sql.catalyst.analysis.CleanupAliases$.MODULE$.trimAliases((Expression) args.get(3)) : null;
      question.put("options", options != null && options.foldable() ? plain(options.eval(InternalRow.empty()), options.dataType()) : null);
      List answer = (List) python.ask(active(), question);
      UserDefinedPythonFunction udf = (UserDefinedPythonFunction) answer.get(0);
      Map plan = (Map) Language.Python.read((String) answer.get(1), Map.class);

      List inputs = new ArrayList();
      List hashed = new ArrayList();
      hashed.add(Literal.create(plan.get("seed"), IntegerType$.MODULE$));
      for (Object one : (List) plan.get("inputs")) {
        Map input = (Map) one;
        int place = ((Integer) input.get("place")).intValue();  // of a field; -1: the label
        Expression e = place < 0 ? (Expression) args.get(2) : field(features, place);
        e = Scalar.converted(e, (String) input.get("cast"));
        inputs.add(e);
        hashed.add(e);
      }
      inputs.add(0, new XxHash64(Lists.seq(hashed)));
      org.apache.spark.sql.catalyst.expressions.aggregate.AggregateFunction trained =
          (org.apache.spark.sql.catalyst.expressions.aggregate.AggregateFunction) udf.builder(Lists.seq(inputs));
      Metadata metadata = new MetadataBuilder().putString(SIGNATURE, (String) plan.get("signature")).build();
      return new Alias(trained.toAggregateExpression(), name, NamedExpression.newExprId(), Lists.seq(new ArrayList()),
          scala.Option.apply(metadata), Lists.seq(new ArrayList()));
    }
  }

  /** A field of a struct: of one that is made here what it is made of, where a thousand columns would give as many structs of a thousand. */
  static Expression field(Expression struct, int place) {
    if (!(struct instanceof CreateNamedStruct)) return new GetStructField(struct, place, scala.Option.empty());
    Expression value = (Expression) ((CreateNamedStruct) struct).valExprs().apply(place);
    return value instanceof Alias ? ((Alias) value).child() : value;
  }

  /** Under which key a column of networks carries their signature. */
  static final String SIGNATURE = "dlsql.signature";

  /** A constant as JSON has it: structs and maps as objects, in their order. */
  static Object plain(Object value, DataType type) {
    if (value == null) return null;
    if (type instanceof ArrayType) {
      List items = new ArrayList();
      org.apache.spark.sql.catalyst.util.ArrayData data = (org.apache.spark.sql.catalyst.util.ArrayData) value;
      for (int i = 0; i < data.numElements(); i++) items.add(plain(item(data, i, ((ArrayType) type).elementType()), ((ArrayType) type).elementType()));
      return items;
    }
    Map entries = new java.util.LinkedHashMap();
    if (type instanceof MapType) {
      MapType kinds = (MapType) type;
      MapData data = (MapData) value;
      for (int i = 0; i < data.numElements(); i++) {
        entries.put(String.valueOf(item(data.keyArray(), i, kinds.keyType())), plain(item(data.valueArray(), i, kinds.valueType()), kinds.valueType()));
      }
      return entries;
    }
    if (type instanceof StructType) {
      StructField[] fields = ((StructType) type).fields();
      for (int i = 0; i < fields.length; i++) entries.put(fields[i].name(), plain(((InternalRow) value).get(i, fields[i].dataType()), fields[i].dataType()));
      return entries;
    }
    if (type instanceof DecimalType) return Double.valueOf(((Decimal) value).toDouble());
    return value instanceof Number || value instanceof Boolean ? value : value.toString();
  }

  private static Object item(org.apache.spark.sql.catalyst.util.ArrayData data, int place, DataType type) {
    return data.isNullAt(place) ? null : data.get(place, type);
  }

  /** A table function of the language: Python answers with a query over a stand-in relation, which becomes the TABLE argument. */
  public static class Table extends scala.runtime.AbstractFunction1 {
    private final Language.Python python;
    private final String name;

    public Table(Language.Python python, String name) {
      this.python = python;
      this.name = name;
    }

    public Object apply(Object given) {
      List constants = new ArrayList();
      List tables = new ArrayList();
      List names = new ArrayList();
      for (Object argument : Lists.list(given)) {
        boolean named = argument instanceof NamedArgumentExpression;
        if (named) names.add(((NamedArgumentExpression) argument).key());
        Object arg = named ? ((NamedArgumentExpression) argument).value() : argument;
        if (arg instanceof FunctionTableSubqueryArgumentExpression) tables.add(((FunctionTableSubqueryArgumentExpression) arg).plan());
        else constants.add(constant((Expression) arg));
      }
      Map question = Language.Python.question("table");
      question.put("function", name);
      question.put("namespace", namespace());
      question.put("constants", constants);
      question.put("tables", columns(tables));
      question.put("named", names);
      Object answer = python.ask(active(), question);
      if (answer instanceof org.apache.spark.sql.classic.Dataset) {
        return ((org.apache.spark.sql.classic.Dataset) answer).queryExecution().analyzed();
      }
      List reply = (List) answer;
      return parsed((String) reply.get(0)).transformUp(new Substitute((String) reply.get(1), (LogicalPlan) tables.get(0)));
    }

    private static List columns(List tables) {
      List all = new ArrayList();
      for (Object table : tables) {
        List columns = new ArrayList();
        for (StructField field : ((LogicalPlan) table).schema().fields()) columns.add(describe(field.name(), field.dataType()));
        all.add(columns);
      }
      return all;
    }
  }

  static LogicalPlan parsed(String query) {
    try {
      return ((org.apache.spark.sql.classic.SparkSession) active()).sessionState().sqlParser().parsePlan(query);
    } catch (Exception e) {
      org.apache.spark.unsafe.Platform.throwException(e);
      return null;
    }
  }

  /** Puts a plan in the place of a relation that is named and not yet resolved. */
  public static class Substitute extends scala.runtime.AbstractPartialFunction {
    private final String name;
    private final LogicalPlan plan;

    public Substitute(String name, LogicalPlan plan) {
      this.name = name;
      this.plan = plan;
    }

    public boolean isDefinedAt(Object node) {
      return node instanceof UnresolvedRelation && ((UnresolvedRelation) node).tableName().equals(name);
    }

    public Object applyOrElse(Object node, scala.Function1 otherwise) {
      return isDefinedAt(node) ? plan : otherwise.apply(node);
    }
  }
}
