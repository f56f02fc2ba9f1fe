package dlsql;

import java.util.List;
import java.util.Map;
import org.apache.spark.QueryContext;
import org.apache.spark.sql.AnalysisException;
import org.apache.spark.sql.SparkSession;
import org.apache.spark.sql.catalyst.InternalRow;
import org.apache.spark.sql.catalyst.analysis.ResolvedProcedure;
import org.apache.spark.sql.catalyst.parser.NamedParameterContext;
import org.apache.spark.sql.catalyst.parser.ParserInterface;
import org.apache.spark.sql.catalyst.parser.PositionalParameterContext;
import org.apache.spark.sql.catalyst.plans.logical.Call;
import org.apache.spark.sql.catalyst.plans.logical.LogicalPlan;
import org.apache.spark.sql.catalyst.trees.Origin;
import org.apache.spark.sql.connector.catalog.Identifier;
import org.apache.spark.sql.connector.catalog.ProcedureCatalog;
import org.apache.spark.sql.connector.catalog.procedures.BoundProcedure;
import org.apache.spark.sql.connector.catalog.procedures.ProcedureParameter;
import org.apache.spark.sql.connector.catalog.procedures.UnboundProcedure;
import org.apache.spark.sql.connector.read.LocalScan;
import org.apache.spark.sql.types.StructType;
import org.apache.spark.sql.util.CaseInsensitiveStringMap;

/** Statements: a parser in front of Spark's that asks Python what a text is, and the plan of a text that is ours. */
public class Language {

  /** The Python driver. Every question is one call: the session, and a JSON object whose "op" names the question. */
  public static class Python {
    private static final com.fasterxml.jackson.databind.ObjectMapper JSON = new com.fasterxml.jackson.databind.ObjectMapper();
    private final java.util.function.BiFunction callback;

    public Python(java.util.function.BiFunction callback) {
      this.callback = callback;
    }

    public Object ask(SparkSession session, Map question) {
      String json;
      try {
        json = JSON.writeValueAsString(question);
      } catch (Exception e) {
        throw new IllegalArgumentException(e);
      }
      Object answer = callback.apply(session, json);
      if (answer instanceof Throwable) {
        org.apache.spark.unsafe.Platform.throwException((Throwable) answer);
      }
      return answer;
    }

    /** A question of this kind, to be filled. */
    public static Map question(String op) {
      Map map = new java.util.HashMap();
      map.put("op", op);
      return map;
    }

    public static Object read(String json, Class type) {
      try {
        return JSON.readValue(json, type);
      } catch (Exception e) {
        throw new IllegalArgumentException(e);
      }
    }

    /** Whole numbers, a list in JSON. */
    public static int[] whole(String json) {
      return (int[]) read(json, int[].class);
    }

    /** Those of a frame's columns that Python names by their places: no parser reads their names then. */
    public static List columns(org.apache.spark.sql.classic.Dataset rows, String places) {
      List given = Lists.list(rows.queryExecution().analyzed().output()), found = new java.util.ArrayList();
      for (int place : whole(places)) found.add(given.get(place));
      return found;
    }
  }

  /** An error of ours as Spark's own AnalysisException, so that every client treats it as one. The text holds condition and SQLSTATE. */
  public static class Refusal extends AnalysisException {
    private final String condition;

    public Refusal(String condition, String sqlState, String text) {
      super(text, scala.Option.empty(), scala.Option.empty(), scala.Option.empty(), scala.Option.empty(),
          (scala.collection.immutable.Map) scala.collection.immutable.Map$.MODULE$.empty(), new QueryContext[0],
          scala.Option.apply(sqlState), scala.Option.empty());
      this.condition = condition;
    }

    public String getCondition() {
      return condition;
    }

    /** The text ends with its SQLSTATE: a position after it would hide that from tools that read the end. */
    public AnalysisException withPosition(Origin origin) {
      return this;
    }
  }

  /** The same, as the one exception that a parser may throw: a proxy wraps every other. Its own text is the refusal's. */
  public static class ParseRefusal extends org.apache.spark.sql.catalyst.parser.ParseException {
    private final Refusal refusal;

    public ParseRefusal(Refusal refusal) {
      // Spark looks its condition's text up; this one takes no parameters.
      super(scala.Option.empty(), org.apache.spark.sql.catalyst.trees.CurrentOrigin.get(), "PARSE_EMPTY_STATEMENT",
          (scala.collection.immutable.Map) scala.collection.immutable.Map$.MODULE$.empty(), new QueryContext[0]);
      this.refusal = refusal;
    }

    public String getMessage() {
      return refusal.getMessage();
    }

    public String getCondition() {
      return refusal.getCondition();
    }

    public String getSqlState() {
      return refusal.getSqlState();
    }
  }

  /** An error of ours in a task. PySpark shows one of this kind as its text alone. */
  public static class Failure extends IllegalArgumentException implements org.apache.spark.SparkThrowable {
    private final String condition;
    private final String sqlState;

    public Failure(String condition, String sqlState, String problem) {
      super("[" + condition + "] " + problem + " SQLSTATE: " + sqlState);
      this.condition = condition;
      this.sqlState = sqlState;
    }

    public String getCondition() {
      return condition;
    }

    public String getSqlState() {
      return sqlState;
    }
  }

  /** Makes the parser of a session; given to SparkSessionExtensions.injectParser. */
  public static class ParserFactory extends scala.runtime.AbstractFunction2 {
    private final Python python;

    public ParserFactory(Python python) {
      this.python = python;
    }

    public Object apply(Object session, Object delegate) {
      Class[] faces = new Class[] {ParserInterface.class};
      Parser parser = new Parser((SparkSession) session, delegate, python);
      return java.lang.reflect.Proxy.newProxyInstance(ParserInterface.class.getClassLoader(), faces, parser);
    }
  }

  /** A proxy of ParserInterface, so that it fits every Spark version: it looks at texts of statements, and at nothing else. */
  public static class Parser implements java.lang.reflect.InvocationHandler {
    private final SparkSession session;
    private final Object delegate;
    private final Python python;

    public Parser(SparkSession session, Object delegate, Python python) {
      this.session = session;
      this.delegate = delegate;
      this.python = python;
    }

    public Object invoke(Object proxy, java.lang.reflect.Method method, Object[] args) throws Throwable {
      boolean statement = method.getName().equals("parsePlan") || method.getName().equals("parsePlanWithParameters");
      if (statement && mayBeOurs((String) args[0])) {
        Map question = Python.question("parse");
        question.put("text", args[0]);
        question.put("parameters", Boolean.valueOf(args.length > 1 && hasParameters(args[1])));
        Object answer;
        try {
          answer = python.ask(session, question);
        } catch (Throwable e) {
          throw e instanceof Refusal ? new ParseRefusal((Refusal) e) : e;
        }
        if (Boolean.TRUE.equals(answer)) {
          return new Call(new ResolvedProcedure(new Procedures(), Identifier.of(new String[0], "statement"), new Statement(session, python, (String) args[0])),
              (scala.collection.immutable.Seq) scala.collection.immutable.Nil$.MODULE$, true);
        }
        if (answer instanceof String) {
          args = (Object[]) args.clone();
          args[0] = answer;
        }
      }
      try {
        return method.invoke(delegate, args);
      } catch (java.lang.reflect.InvocationTargetException e) {
        throw e.getCause();
      }
    }

    private static boolean hasParameters(Object context) {
      if (context instanceof NamedParameterContext) return !((NamedParameterContext) context).params().isEmpty();
      return context instanceof PositionalParameterContext && !((PositionalParameterContext) context).params().isEmpty();
    }

    /** Every text of ours holds one of three words; others do not wait for Python. */
    private static boolean mayBeOurs(String text) {
      String lower = text.toLowerCase(java.util.Locale.ROOT);
      return lower.contains("model") || lower.contains("training") || lower.contains("ml");
    }
  }

  /** ResolvedProcedure wants a catalog. */
  public static class Procedures implements ProcedureCatalog {
    public String name() {
      return "dlsql";
    }

    public void initialize(String name, CaseInsensitiveStringMap options) {}

    public UnboundProcedure loadProcedure(Identifier identifier) {
      return null;
    }

    public Identifier[] listProcedures(String[] namespace) {
      return new Identifier[0];
    }
  }

  /** A statement of ours as a procedure without arguments: calling it runs the statement in Python. */
  public static class Statement implements UnboundProcedure, BoundProcedure {
    private final SparkSession session;
    private final Python python;
    private final String text;

    public Statement(SparkSession session, Python python, String text) {
      this.session = session;
      this.python = python;
      this.text = text;
    }

    public String name() {
      return "dlsql";
    }

    public String description() {
      return text;
    }

    public BoundProcedure bind(StructType input) {
      return this;
    }

    public ProcedureParameter[] parameters() {
      return new ProcedureParameter[0];
    }

    public boolean isDeterministic() {
      return false;
    }

    public java.util.Iterator call(InternalRow input) {
      Map question = Python.question("run");
      question.put("text", text);
      org.apache.spark.sql.classic.Dataset rows = (org.apache.spark.sql.classic.Dataset) python.ask(session, question);
      Object result = new Result(rows.schema(), (InternalRow[]) rows.queryExecution().executedPlan().executeCollect());
      return java.util.Collections.singletonList(result).iterator();
    }
  }

  /** The rows that a statement gave. */
  public static class Result implements LocalScan {
    private final StructType schema;
    private final InternalRow[] rows;

    public Result(StructType schema, InternalRow[] rows) {
      this.schema = schema;
      this.rows = rows;
    }

    public StructType readSchema() {
      return schema;
    }

    public InternalRow[] rows() {
      return rows;
    }
  }
}
