package dlsql;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import org.apache.spark.rdd.RDD;
import org.apache.spark.sql.catalyst.InternalRow;
import org.apache.spark.sql.catalyst.expressions.*;
import org.apache.spark.sql.execution.ColumnarToRowExec;
import org.apache.spark.sql.execution.FilterExec;
import org.apache.spark.sql.execution.LocalLimitExec;
import org.apache.spark.sql.execution.ProjectExec;
import org.apache.spark.sql.execution.SparkPlan;
import org.apache.spark.sql.execution.metric.SQLMetric;
import org.apache.spark.sql.execution.metric.SQLMetrics;
import org.apache.spark.sql.execution.vectorized.ColumnVectorUtils;
import org.apache.spark.sql.execution.vectorized.ConstantColumnVector;
import org.apache.spark.sql.types.*;
import org.apache.spark.sql.vectorized.ColumnVector;
import org.apache.spark.sql.vectorized.ColumnarBatch;
import org.apache.spark.unsafe.Platform;
import org.apache.spark.unsafe.array.ByteArrayMethods;
import scala.collection.immutable.Seq;

/**
 * A projection that packs, with the limit and the filter below it, over a scan that gives columns: they are encoded one after the other,
 * some hundreds of rows at a time. What comes out are Spark's rows, each of them a stretch of one buffer; Predict takes those hundreds at once.
 * The code that Spark generates would take the columns apart into rows, allocate for each and copy it twice.
 */
public class PackColumns extends ProjectExec {
  private static final int BYTES = 1 << 16;  // of the rows that are encoded at once: they stay in the core's cache from column to column

  private final scala.Option condition;
  private final int limit;  // of rows a partition
  private final SQLMetric rows;

  public PackColumns(Seq projectList, SparkPlan child, scala.Option condition, int limit) {
    super(projectList, child);
    this.condition = condition;
    this.limit = limit;
    rows = SQLMetrics.createMetric(sparkContext(), "number of output rows");
  }

  /** What does the same as a projection: over columns, if it packs nothing but columns and constants; else the projection. */
  static SparkPlan of(ProjectExec project) {
    boolean packs = false;
    for (Object one : Lists.list(project.projectList())) {
      if (one instanceof Attribute) continue;
      if (!(one instanceof Alias) || !(((Alias) one).child() instanceof Encode)) return project;
      for (Object feature : ((Encode) ((Alias) one).child()).features()) if (!isReady((Expression) feature)) return project;
      packs = true;
    }
    if (!packs) return project;
    Expression condition = null;
    int limit = Integer.MAX_VALUE;
    SparkPlan below = project.child();
    while (below instanceof FilterExec || below instanceof ProjectExec && chooses((ProjectExec) below)
        || below instanceof LocalLimitExec && condition == null) {
      if (below instanceof LocalLimitExec) limit = Math.min(limit, ((LocalLimitExec) below).limit());
      if (below instanceof FilterExec) {
        Expression one = ((FilterExec) below).condition();
        condition = condition == null ? one : new And(one, condition);
      }
      below = (SparkPlan) below.children().apply(0);
    }
    if (below instanceof ColumnarToRowExec) below = ((ColumnarToRowExec) below).child();
    // A cached table gives both, and rows where nobody asks for columns.
    return below.supportsColumnar() ? new PackColumns(project.projectList(), below, scala.Option.apply(condition), limit) : project;
  }

  private static boolean isReady(Expression feature) {
    DataType type = feature.dataType();
    return feature instanceof Attribute || feature.foldable() && !(type instanceof ArrayType) && !(type instanceof BinaryType);
  }

  private static boolean chooses(ProjectExec project) {
    for (Object one : Lists.list(project.projectList())) if (!(one instanceof Attribute)) return false;
    return true;
  }

  public boolean supportCodegen() {
    return false;
  }

  public scala.collection.immutable.Map metrics() {
    return (scala.collection.immutable.Map) super.metrics().updated("numOutputRows", rows);
  }

  public ProjectExec withNewChildInternal(SparkPlan child) {
    return new PackColumns(projectList(), child, condition, limit);
  }

  public int productArity() {
    return 4;
  }

  public Object productElement(int i) {
    return i == 3 ? Integer.valueOf(limit) : i == 2 ? condition : super.productElement(i);
  }

  public boolean canEqual(Object other) {
    return other instanceof PackColumns;
  }

  public boolean equals(Object other) {
    return other instanceof PackColumns && super.equals(other) && condition.equals(((PackColumns) other).condition)
        && limit == ((PackColumns) other).limit;
  }

  public String verboseStringWithOperatorId() {
    return super.verboseStringWithOperatorId() + (condition.isEmpty() ? "" : "Condition : " + condition.get() + "\n")
        + (limit == Integer.MAX_VALUE ? "" : "Limit : " + limit + "\n");
  }

  public scala.collection.Iterator stringArgs() {
    List told = new ArrayList();
    told.add(projectList());
    if (condition.isDefined()) told.add(condition.get());
    if (limit != Integer.MAX_VALUE) told.add("limit " + limit);
    return Lists.seq(told).iterator();
  }

  public RDD doExecute() {
    Partition each = new Partition(Lists.list(projectList()), child().output(), (Expression) (condition.isEmpty() ? null : condition.get()), limit, rows);
    return child().executeColumnar().mapPartitionsWithIndexInternal(each, false, false, false, scala.reflect.ClassTag$.MODULE$.apply(InternalRow.class));
  }

  /** What happens to a partition. */
  public static class Partition extends scala.runtime.AbstractFunction2 implements java.io.Serializable {
    final List columns;  // that come out
    final Seq given;
    final Expression condition;
    final int limit;
    final SQLMetric count;

    Partition(List columns, Seq given, Expression condition, int limit, SQLMetric count) {
      this.columns = columns;
      this.given = given;
      this.condition = condition;
      this.limit = limit;
      this.count = count;
    }

    public Object apply(Object index, Object batches) {
      return new Rows(this, ((Integer) index).intValue(), (scala.collection.Iterator) batches);
    }

    BasePredicate predicate(Expression condition, int partition) {
      if (condition == null) return null;
      BasePredicate made = Predicate$.MODULE$.create(condition, given);
      made.initialize(partition);
      return made;
    }
  }

  /** One of the packed columns: what feeds it, and where it lies in a row. */
  private static final class Packed {
    final Encoder encoder;
    final int[] from;  // of each part: its place in a batch; -1 for a constant
    final ColumnVector[] constants;
    final BasePredicate guard;  // of the rows that are scored; null for all
    int column;  // of those that come out
    int slot;
    int at;

    Packed(Encode encode, Partition of, int partition) {
      encoder = encode.encoder();
      List features = encode.features();
      from = new int[features.size()];
      constants = new ColumnVector[from.length];
      for (int i = 0; i < from.length; i++) {
        Expression feature = (Expression) features.get(i);
        from[i] = place(feature, of.given);
        if (from[i] < 0) constants[i] = constant(feature);
      }
      guard = of.predicate(encode.condition(), partition);
    }

    private static ColumnVector constant(Expression value) {
      ConstantColumnVector column = new ConstantColumnVector(1, value.dataType());
      ColumnVectorUtils.populate(column, new GenericInternalRow(new Object[] {value.eval(InternalRow.empty())}), 0);
      return column;
    }
  }

  /** A condition without what it says of columns being there, which is added to a list. */
  private static Expression withoutNull(Expression condition, List columns) {
    if (condition instanceof And) {
      Expression left = withoutNull(((And) condition).left(), columns), right = withoutNull(((And) condition).right(), columns);
      return left == null ? right : right == null ? left : new And(left, right);
    }
    if (!(condition instanceof IsNotNull) || !(((IsNotNull) condition).child() instanceof Attribute)) return condition;
    columns.add(((IsNotNull) condition).child());
    return null;
  }

  private static int place(Expression column, Seq given) {
    for (int i = 0; column instanceof Attribute && i < given.size(); i++) {
      if (((Attribute) given.apply(i)).exprId().equals(((Attribute) column).exprId())) return i;
    }
    return -1;
  }

  /** Whether values of a type lie in the 8 bytes of their field. */
  private static boolean isNumber(DataType type) {
    return type instanceof IntegralType || type instanceof FractionalType && !(type instanceof DecimalType) || type instanceof BooleanType
        || isMoment(type) || type instanceof DateType;
  }

  private static boolean isMoment(DataType type) {
    return type instanceof TimestampType || type instanceof TimestampNTZType;
  }

  /** Bytes of one of Spark's rows of so many fields, all of them numbers. */
  static int rowSize(int fields) {
    return UnsafeRow.calculateBitSetWidthInBytes(fields) + 8 * fields;
  }

  /** Spark's rows, all of one length, in an array. */
  private static final class Table {
    final byte[] bytes;
    private final int stride;
    private final long first;
    private final int head;  // bytes before a row's fields

    Table(byte[] bytes, int from, int stride, int fields) {
      this.bytes = bytes;
      this.stride = stride;
      head = UnsafeRow.calculateBitSetWidthInBytes(fields);
      first = Platform.BYTE_ARRAY_OFFSET + from;
    }

    long row(int place) {
      return first + (long) place * stride;
    }

    long field(int place, int field) {
      return row(place) + head + 8L * field;
    }

    void setNull(int place, int field) {
      org.apache.spark.unsafe.bitset.BitSetMethods.set(bytes, row(place), field);
    }
  }

  /**
   * The rows one by one, or, for who takes packed columns apart from the others, as many at once as are encoded together: `choose`, then
   * `pack` and `keep` or `row`, then `used`.
   */
  public static final class Rows extends scala.collection.AbstractIterator {
    private final scala.collection.Iterator batches;
    private final Partition of;
    private final BasePredicate condition;  // but for what `there` says
    private final int[] there;  // columns in which no chosen row is NULL
    private final Packed[] packed;
    private final int[] kept;  // in a batch, of each field; -1 for a packed one
    private final boolean narrow;  // all that is kept beside packed columns is numbers, which the table holds
    private final int stride;
    private final JoinedRow joined = new JoinedRow();
    private final UnsafeRow row;
    private Table table;  // made for who takes row by row, as what joins to its rows what is not narrow
    private UnsafeProjection joining;
    private final int[] chosen;  // rows of a slice that the condition holds for
    private final int[] guarded;  // of these, those that a guard holds for
    private final int[] places;
    private final int[] theirs;
    private final boolean[] fits;
    private ColumnarBatch batch;
    private int left;  // rows that may come out still
    private int begin;  // of the slice
    private int end;
    private int count;
    private int at;

    Rows(Partition of, int partition, scala.collection.Iterator batches) {
      this.batches = batches;
      this.of = of;
      left = of.limit;
      List missing = new ArrayList();
      condition = of.predicate(withoutNull(of.condition, missing), partition);
      there = new int[missing.size()];
      for (int i = 0; i < there.length; i++) there[i] = place((Expression) missing.get(i), of.given);
      boolean numbers = true;
      for (Object one : of.columns) numbers &= one instanceof Alias || isNumber(((Attribute) one).dataType());
      narrow = numbers;
      List fields = new ArrayList(), encodes = new ArrayList();
      for (Object one : of.columns) if (one instanceof Alias || narrow) fields.add(one);
      row = new UnsafeRow(fields.size());
      kept = new int[fields.size()];
      int size = rowSize(kept.length);
      for (int i = 0; i < kept.length; i++) {
        kept[i] = fields.get(i) instanceof Alias ? -1 : place((Expression) fields.get(i), of.given);
        if (kept[i] >= 0) continue;
        Packed one = new Packed((Encode) ((Alias) fields.get(i)).child(), of, partition);
        one.column = of.columns.indexOf(fields.get(i));
        one.slot = i;
        one.at = size;
        size += ByteArrayMethods.roundNumberOfBytesToNearestWord(one.encoder.bytes());
        encodes.add(one);
      }
      packed = (Packed[]) encodes.toArray(new Packed[0]);
      stride = size;
      int most = Math.max(1, Math.min(BYTES / stride, 1024));
      chosen = new int[most];
      guarded = new int[most];
      theirs = new int[most];
      fits = new boolean[most];
      places = new int[most];
      for (int i = 0; i < most; i++) places[i] = i;
    }

    private void open() {
      table = new Table(new byte[Math.multiplyExact(chosen.length, stride)], 0, stride, kept.length);
      if (narrow) return;
      List inputs = Lists.list(of.given), outputs = new ArrayList();
      for (Object one : of.columns) {
        outputs.add(((NamedExpression) one).toAttribute());
        if (one instanceof Alias) inputs.add(((NamedExpression) one).toAttribute());
      }
      joining = UnsafeProjection.create(Lists.seq(outputs), Lists.seq(inputs));
    }

    public boolean hasNext() {
      if (at < count) return true;
      if (!choose(chosen.length)) return false;
      if (table == null) open();
      Arrays.fill(table.bytes, 0, count * stride, (byte) 0);
      for (Packed one : packed) {
        pack(one, table.bytes, one.at, stride);
        long where = (long) one.at << 32 | one.encoder.bytes();
        for (int i = 0; i < count; i++) {
          if (fits[i]) Platform.putLong(table.bytes, table.field(i, one.slot), where);
          else table.setNull(i, one.slot);
        }
      }
      for (int field = 0; field < kept.length; field++) if (kept[field] >= 0) keep(table, field, batch.column(kept[field]));
      return true;
    }

    public Object next() {
      if (!hasNext()) throw new java.util.NoSuchElementException();
      row.pointTo(table.bytes, table.row(at), stride);
      InternalRow beside = narrow ? null : row(at);
      at++;
      return narrow ? row : joining.apply(joined.apply(beside, row));
    }

    /** The columns that rows are chosen of. */
    Seq given() {
      return of.given;
    }

    /** Whether all that is kept is numbers. */
    boolean isNarrow() {
      return narrow;
    }

    /** Chooses rows, no more than so many, where those chosen last are used; whether there are any. */
    boolean choose(int most) {
      while (at == count) {
        if (left == 0) return false;
        if (batch == null || end == batch.numRows()) {
          if (batch != null) batch.closeIfFreeable();
          batch = null;
          if (!batches.hasNext()) return false;
          batch = (ColumnarBatch) batches.next();
          end = 0;
        }
        begin = end;
        end = Math.min(begin + Math.min(most, chosen.length), batch.numRows());
        at = 0;
        count = 0;
        for (int i = 0; i < end - begin && count < left; i++) {
          if (isThere(begin + i) && (condition == null || condition.eval(batch.getRow(begin + i)))) chosen[count++] = i;
        }
        left -= count;
        of.count.add(count);
      }
      return true;
    }

    /** Columns know by themselves where they are NULL, most of them that they are nowhere: a row that is asked reads its value, too. */
    private boolean isThere(int row) {
      for (int place : there) if (batch.column(place).hasNull() && batch.column(place).isNullAt(row)) return false;
      return true;
    }

    /** How many rows are chosen. */
    int count() {
      return count;
    }

    /** One of the chosen rows, of the given columns. */
    InternalRow row(int place) {
      return batch.getRow(begin + chosen[place]);
    }

    void used() {
      at = count;
    }

    /** Bytes that a row takes in a column that is packed. */
    int width(int column) {
      return packed(column).encoder.bytes();
    }

    /** A packed column of the chosen rows, row after row; which of them hold something to score. Valid until the next call. */
    boolean[] pack(int column, byte[] to, int from) {
      Packed one = packed(column);
      int width = one.encoder.bytes();
      Arrays.fill(to, from, from + count * width, (byte) 0);
      pack(one, to, from, width);
      return fits;
    }

    /** The numbers that are kept of the chosen rows: as Spark's rows, every `stride` bytes one, of so many fields; the others are NULL. */
    void keep(byte[] to, int from, int stride, int fields) {
      Table rows = new Table(to, from, stride, fields);
      int words = rowSize(fields) / 8;  // a call of Arrays.fill for each row takes longer
      for (int i = 0; i < count; i++) for (int word = 0; word < words; word++) Platform.putLong(to, rows.row(i) + 8L * word, 0);
      int field = 0;
      for (int place : kept) if (place >= 0) keep(rows, field++, batch.column(place));
      for (; field < fields; field++) for (int i = 0; i < count; i++) rows.setNull(i, field);
    }

    private Packed packed(int column) {
      for (Packed one : packed) if (one.column == column) return one;
      throw new IllegalArgumentException("Column " + column + " is not packed.");
    }

    private void pack(Packed one, byte[] to, int from, int stride) {
      int[] rows = chosen, where = places;
      int n = count;
      Arrays.fill(fits, 0, count, one.guard == null);
      if (one.guard != null) {
        n = 0;
        for (int i = 0; i < count; i++) {
          if (!one.guard.eval(row(i))) continue;
          guarded[n] = chosen[i];
          theirs[n++] = i;
          fits[i] = true;
        }
        rows = guarded;
        where = theirs;
      }
      for (int part = 0; part < one.from.length; part++) {
        ColumnVector column = one.from[part] < 0 ? one.constants[part] : batch.column(one.from[part]);
        one.encoder.column(to, Platform.BYTE_ARRAY_OFFSET + from, stride, part, column, begin, rows, where, n, fits);
      }
    }

    private void keep(Table rows, int field, ColumnVector column) {
      DataType type = column.dataType();
      boolean nulls = column.hasNull();
      for (int i = 0; i < count; i++) {
        int from = begin + chosen[i];
        long where = rows.field(i, field);
        if (nulls && column.isNullAt(from)) rows.setNull(i, field);
        else if (type instanceof DoubleType) Platform.putDouble(rows.bytes, where, column.getDouble(from));
        else if (type instanceof FloatType) Platform.putFloat(rows.bytes, where, column.getFloat(from));
        else if (type instanceof LongType || isMoment(type)) Platform.putLong(rows.bytes, where, column.getLong(from));
        else if (type instanceof IntegerType || type instanceof DateType) Platform.putInt(rows.bytes, where, column.getInt(from));
        else if (type instanceof ShortType) Platform.putShort(rows.bytes, where, column.getShort(from));
        else if (type instanceof ByteType) Platform.putByte(rows.bytes, where, column.getByte(from));
        else Platform.putBoolean(rows.bytes, where, column.getBoolean(from));
      }
    }
  }
}
