//! Random queries, all from one seed.
//!
//! A query has *holes* where its text differs between the program under test and the batch answer
//! that it is held against: `{div:x.a}` is `10 / x.a` live, and in a [`World`] what it is where the
//! division by zero has some arbitrary answer.

use std::fmt::Write;

use fastrand::Rng;

/// What a column holds; each has a tiny domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    Int,
    Text,
    Float,
    Decimal,
    /// A bigint near the ends of its range, only ever summed or passed on.
    Big,
    /// The same as `numeric(38)`.
    Wide,
}

/// A table's name, whether it has a primary key `k`, and its columns.
pub type TableShape = (&'static str, bool, &'static [(&'static str, Type)]);

/// The source tables: `r`, `s` and `v` have a primary key `k`, `w` is told apart by its whole rows.
/// `v` is for sums that overflow; the queries of a seed without faults do not read it.
pub const TABLES: [TableShape; 4] = [
    (
        "r",
        true,
        &[
            ("k", Type::Int),
            ("a", Type::Int),
            ("b", Type::Int),
            ("t", Type::Text),
            ("f", Type::Float),
            ("d", Type::Decimal),
        ],
    ),
    (
        "s",
        true,
        &[
            ("k", Type::Int),
            ("a", Type::Int),
            ("b", Type::Int),
            ("t", Type::Text),
            ("f", Type::Float),
            ("d", Type::Decimal),
        ],
    ),
    ("w", false, &[("a", Type::Int), ("b", Type::Int), ("t", Type::Text), ("f", Type::Float)]),
    ("v", true, &[("k", Type::Int), ("g", Type::Int), ("big", Type::Big), ("wide", Type::Wide)]),
];

/// Tables that any query may read.
const COMMON: usize = 3;

/// A query and its columns.
#[derive(Clone, Debug, Default)]
pub struct Query {
    /// With holes: see [`Query::live`] and [`in_world`].
    pub sql: String,
    pub columns: Vec<Column>,
    /// The columns of `WITH (key = …)`, by their place.
    pub key: Option<Vec<usize>>,
    /// Set where ORDER BY leaves ties at the edge of LIMIT, so that several answers are right.
    pub window: Option<Window>,
    /// Each group stands for itself: what no world disputes is served, and nothing else.
    pub is_exact: bool,
}

/// `ORDER BY … LIMIT …` by some of the columns.
#[derive(Clone, Debug)]
pub struct Window {
    /// The same query without its end, with holes.
    pub unlimited: String,
    /// The places of the columns that it is sorted by.
    pub order: Vec<usize>,
}

/// An expression or a column of a query.
#[derive(Clone, Debug)]
pub struct Column {
    pub name: String,
    pub data_type: Type,
    /// While no source row has a zero or a text that is no number, this has none either.
    is_tame: bool,
}

/// Arbitrary answers for what has none.
#[derive(Clone, Copy, Debug)]
pub enum World {
    /// The same everywhere.
    Uniform(Option<i64>),
    /// Another one for each expression.
    Mixed(usize),
}

/// The answers that a failing expression is given; `None` is NULL.
const ANSWERS: [Option<i64>; 6] = [None, Some(0), Some(1), Some(2), Some(5), Some(-7)];

pub const WORLDS: [World; 8] = [
    World::Uniform(ANSWERS[0]),
    World::Uniform(ANSWERS[1]),
    World::Uniform(ANSWERS[2]),
    World::Uniform(ANSWERS[3]),
    World::Uniform(ANSWERS[4]),
    World::Uniform(ANSWERS[5]),
    World::Mixed(0),
    World::Mixed(3),
];

impl World {
    /// The answer of the `site`-th expression that can fail. The same expression has the same
    /// answer wherever it stands: `x = x` may be planned as `true`.
    fn answer(self, site: usize) -> String {
        let answer = match self {
            World::Uniform(answer) => answer,
            World::Mixed(first) => ANSWERS[(first + site * 5 + site / 6) % ANSWERS.len()],
        };
        answer.map_or_else(|| "NULL".to_owned(), |answer| answer.to_string())
    }
}

impl Query {
    /// As the program under test is asked.
    pub fn live(&self) -> String {
        fill(&self.sql, |kind, column| match kind {
            "div" => format!("(10 / {column})"),
            "num" => format!("CAST({column} AS BIGINT)"),
            "neg" => format!("(-{column})"),
            _ => format!("sum({column})"),
        })
    }

    /// Whether some of its expressions can fail.
    pub fn can_fail(&self) -> bool {
        ["{div:", "{num:", "{sum:", "{wide:"].iter().any(|hole| self.sql.contains(hole))
    }

    /// Whether it reads this table.
    pub fn reads(&self, table: &str) -> bool {
        self.sql.split(|c: char| !c.is_alphanumeric()).any(|word| word == table)
    }

    /// More rows in its tables never take rows away from its answer, nor change any.
    pub fn is_monotone(&self) -> bool {
        const NOT: [&str; 14] = [
            "LEFT",
            "RIGHT",
            "FULL",
            "GROUP BY",
            "DISTINCT",
            "LIMIT",
            "OVER",
            "EXISTS",
            "IN (SELECT",
            "INTERSECT",
            "EXCEPT",
            "(SELECT m",
            "sum",
            "count(",
        ];
        const NOT_CALLS: [&str; 6] = ["min(", "max(", "avg(", "bit_or(", "{sum:", "{wide:"];
        let unions = self.sql.matches(" UNION ").count() == self.sql.matches(" UNION ALL ").count();
        unions && !NOT.iter().chain(&NOT_CALLS).any(|word| self.sql.contains(word))
    }

    /// The columns whose values can make an expression fail, by their names in the source tables;
    /// `None` when that can't be told.
    pub fn failing_columns(&self) -> Option<Vec<String>> {
        let mut columns = Some(Vec::new());
        fill(&self.sql, |kind, column| {
            let name = last_name(column);
            if kind != "neg" {
                match (&mut columns, BASE.contains(&name)) {
                    (Some(columns), true) => columns.push(name.to_owned()),
                    _ => columns = None,
                }
            }
            String::new()
        });
        columns
    }
}

/// A text with holes as the batch is asked in one of the worlds. There nothing fails, in whatever
/// order it is evaluated.
pub fn in_world(sql: &str, world: World) -> String {
    let mut sites: Vec<String> = Vec::new();
    fill(sql, |kind, column| {
        let site = sites.iter().position(|known| *known == format!("{kind}:{column}")).unwrap_or_else(|| {
            sites.push(format!("{kind}:{column}"));
            sites.len() - 1
        });
        let answer = world.answer(site);
        let or_answer = |value: String, wanted: &str| {
            let tried = format!("TRY_CAST({value} AS {wanted})");
            format!(
                "(CASE WHEN {value} IS NOT NULL AND {tried} IS NULL THEN CAST({answer} AS {wanted}) ELSE {tried} END)"
            )
        };
        match kind {
            "div" => format!("(CASE WHEN {column} = 0 THEN {answer} ELSE 10 / NULLIF({column}, 0) END)"),
            "num" => or_answer(column.to_owned(), "BIGINT"),
            // One zero: the batch's tables hold no other either.
            "neg" => format!("(0.0 - {column})"),
            // Not by way of the wider DECIMAL(76, 0), whose cast to BIGINT wraps around (arrow 59).
            "sum" => or_answer(format!("sum(CAST({column} AS DECIMAL(38, 0)))"), "BIGINT"),
            _ => or_answer(format!("sum(CAST({column} AS DECIMAL(76, 0)))"), "DECIMAL(38, 0)"),
        }
    })
}

/// Puts something in the place of each hole.
fn fill(sql: &str, mut with: impl FnMut(&str, &str) -> String) -> String {
    let mut filled = String::new();
    let mut rest = sql;
    while let Some((before, hole)) = rest.split_once('{') {
        let (hole, after) = hole.split_once('}').expect("holes are closed");
        let (kind, column) = hole.split_once(':').expect("a hole is kind:column");
        filled += before;
        filled += &with(kind, column);
        rest = after;
    }
    filled + rest
}

fn last_name(column: &str) -> &str {
    column.rsplit('.').next().unwrap_or(column)
}

/// Integer and text columns of the source tables.
const BASE: [&str; 5] = ["k", "a", "b", "g", "t"];

/// Makes queries.
pub struct Queries {
    rng: Rng,
    names: u32,
    /// Whether expressions may fail.
    faults: bool,
}

/// `(expression, its name, whether it is tame)`.
type Item = (String, Column);

impl Queries {
    pub fn new(seed: u64, faults: bool) -> Queries {
        Queries { rng: Rng::with_seed(seed), names: 0, faults }
    }

    /// A query of bounded depth.
    pub fn query(&mut self) -> Query {
        match self.rng.u32(..16) {
            0 | 1 => self.ties(),
            2 => self.with_right_key(),
            3 => self.with_doubtful_key(),
            4..7 => self.keyed(),
            7 => self.set_operation(),
            8 => self.union(),
            9 if self.faults => self.overflow(),
            10..13 if self.faults => self.bent(),
            _ => self.select(3),
        }
    }

    fn name(&mut self, prefix: &str) -> String {
        self.names += 1;
        format!("{prefix}{}", self.names)
    }

    fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.rng.usize(..of.len())]
    }

    fn one_in(&mut self, n: u32) -> bool {
        self.rng.u32(..n) == 0
    }

    fn item(&mut self, expr: Column) -> Item {
        let name = self.name("c");
        (expr.name, Column { name, ..expr })
    }

    fn select(&mut self, depth: u32) -> Query {
        if depth == 0 {
            return self.simple(0);
        }
        match self.rng.u32(..26) {
            0..4 => self.simple(depth),
            4..9 => self.aggregate(depth),
            9..11 => self.distinct(depth),
            11..13 => self.union(),
            13..15 => self.top(depth),
            15 => self.set_operation(),
            16 => self.window(),
            17..21 => self.existence(),
            21 => self.scalar_subquery(),
            22 if self.faults => self.overflow(),
            23 if self.faults => self.bent(),
            _ => self.keyed(),
        }
    }

    /// A relation for FROM: its text, and its columns by qualified name.
    fn relation(&mut self, depth: u32) -> (String, Vec<Column>) {
        if depth > 0 && !self.one_in(3) {
            return self.join(depth - 1);
        }
        self.leaf(depth)
    }

    /// A table or a subquery.
    fn leaf(&mut self, depth: u32) -> (String, Vec<Column>) {
        if depth > 1 && self.one_in(3) {
            let query = self.select(depth - 1);
            return self.aliased(&query);
        }
        let (table, ..) = *self.pick(&TABLES[..COMMON]);
        self.table(table)
    }

    fn table(&mut self, table: &str) -> (String, Vec<Column>) {
        let alias = if self.rng.bool() { self.name("x") } else { format!("{table}{}", self.name("")) };
        (format!("{table} {alias}"), columns_of(table, &alias))
    }

    fn aliased(&mut self, query: &Query) -> (String, Vec<Column>) {
        let alias = self.name("q");
        let columns = query
            .columns
            .iter()
            .map(|column| Column { name: format!("{alias}.{}", column.name), ..column.clone() })
            .collect();
        (format!("({}) {alias}", query.sql), columns)
    }

    fn join(&mut self, depth: u32) -> (String, Vec<Column>) {
        let (left, left_columns) = self.relation(depth);
        let (right, right_columns) = self.leaf(depth);
        let kind =
            *self.pick(&["JOIN", "JOIN", "JOIN", "LEFT JOIN", "LEFT JOIN", "LEFT JOIN", "RIGHT JOIN", "FULL JOIN"]);
        let mut on = Vec::new();
        for _ in 0..self.rng.u32(1..3) {
            let l = self.pick(&left_columns).clone();
            let same: Vec<_> = right_columns.iter().filter(|r| r.data_type == l.data_type).cloned().collect();
            if !same.is_empty() {
                let r = self.pick(&same).clone();
                let (l, r) = match self.rng.u32(..8) {
                    0 if l.data_type == Type::Int => (format!("{} + 1", l.name), r.name),
                    1 => (self.failing(&l).unwrap_or(l.name), r.name),
                    2 if l.data_type == Type::Int => (l.name, self.failing(&r).unwrap_or(r.name)),
                    _ => (l.name, r.name),
                };
                // A cast text is a number.
                if !(l.starts_with("{num") && same[0].data_type == Type::Text) {
                    on.push(format!("{l} = {r}"));
                }
            }
        }
        let columns = [left_columns, right_columns].concat();
        let has_key = !on.is_empty();
        if on.is_empty() || (kind == "JOIN" && self.one_in(12)) || (kind != "JOIN" && self.one_in(5)) {
            on.push(self.predicate(&columns));
        }
        let kind = if has_key { kind } else { "JOIN" };
        (format!("{left} {kind} {right} ON {}", on.join(" AND ")), columns)
    }

    /// An expression over this column that fails for some of its values, where that is asked for.
    fn failing(&mut self, column: &Column) -> Option<String> {
        match column.data_type {
            Type::Int if self.faults && column.is_tame => Some(format!("{{div:{}}}", column.name)),
            Type::Text if self.faults && column.is_tame => Some(format!("{{num:{}}}", column.name)),
            _ => None,
        }
    }

    /// The same over one of these columns, once in `n` times.
    fn some_failing(&mut self, columns: &[Column], n: u32) -> Option<Column> {
        if !self.faults || !self.one_in(n) {
            return None;
        }
        let column = self.pick(columns).clone();
        let name = self.failing(&column)?;
        Some(Column { name, data_type: Type::Int, is_tame: column.data_type == Type::Text })
    }

    fn predicate(&mut self, columns: &[Column]) -> String {
        if let Some(failing) = self.some_failing(columns, 5) {
            return self.comparison(&failing);
        }
        let picked = self.pick(columns).clone();
        let column = &picked.name;
        match (self.rng.u32(..9), picked.data_type) {
            (0, _) => format!("{column} IS NULL"),
            (1, _) => format!("{column} IS NOT NULL"),
            (2, _) => format!("({} OR {})", self.comparison(&picked), self.predicate(columns)),
            (3, _) => format!("NOT {}", self.comparison(&picked)),
            (4, Type::Int) => format!("{column} IN (0, 2)"),
            (5, Type::Text) => format!("{column} LIKE 'b%'"),
            (6, Type::Int) => format!("{column} % 2 = 0"),
            (7, Type::Int) => format!("{column} NOT IN (1, 3)"),
            _ => self.comparison(&picked),
        }
    }

    fn comparison(&mut self, column: &Column) -> String {
        let operator = *self.pick(&["=", "<>", "<", "<=", ">", ">="]);
        let value = match column.data_type {
            Type::Int => self.rng.i32(0..3).to_string(),
            Type::Text => (*self.pick(&["'a'", "'b'", "'bb'"])).to_owned(),
            // DataFusion tells the zeros apart when they are computed; those of a table are one.
            Type::Float if last_name(&column.name) == "f" => (*self.pick(&["0.5", "-1.5", "2e0", "0e0"])).to_owned(),
            Type::Float => (*self.pick(&["0.5", "-1.5", "2e0"])).to_owned(),
            Type::Decimal => (*self.pick(&["0.25", "1.50"])).to_owned(),
            Type::Big | Type::Wide => self.rng.i32(-1..2).to_string(),
        };
        format!("{} {operator} {value}", column.name)
    }

    fn filter(&mut self, columns: &[Column]) -> String {
        match self.rng.u32(..3) {
            0 => String::new(),
            1 => format!(" WHERE {}", self.predicate(columns)),
            _ => format!(" WHERE {} AND {}", self.predicate(columns), self.predicate(columns)),
        }
    }

    fn scalar(&mut self, columns: &[Column]) -> Column {
        if let Some(failing) = self.some_failing(columns, 3) {
            return match self.rng.u32(..4) {
                0 => Column { name: format!("coalesce({}, 7)", failing.name), ..failing },
                _ => failing,
            };
        }
        let column = self.pick(columns).clone();
        let name = &column.name;
        let made = |name: String, is_tame: bool| Column { name, is_tame: is_tame && column.is_tame, ..column };
        match (self.rng.u32(..8), column.data_type) {
            (0, Type::Int) => made(format!("{name} + 1"), true),
            (1, Type::Int) => made(format!("CASE WHEN {name} = 0 THEN NULL ELSE 10 / {name} END"), false),
            (0, Type::Text) => made(format!("upper({name})"), true),
            (1, Type::Text) => made(format!("coalesce({name}, 'none')"), false),
            (0, Type::Float) => made(format!("{{neg:{name}}}"), true),
            (1, Type::Float) => made(format!("{name} * 2"), true),
            (2, Type::Int) => made(format!("coalesce({name}, 7)"), true),
            _ => column,
        }
    }

    fn some_scalars(&mut self, columns: &[Column], at_most: usize) -> Vec<Item> {
        (0..self.rng.usize(1..=at_most))
            .map(|_| {
                let expr = self.scalar(columns);
                self.item(expr)
            })
            .collect()
    }

    fn simple(&mut self, depth: u32) -> Query {
        let (from, columns) = self.relation(depth);
        let filter = self.filter(&columns);
        let mut items = self.some_scalars(&columns, 4);
        if self.one_in(3) {
            items.insert(0, self.item(columns[0].clone()));
        }
        select("SELECT", &items, &format!("FROM {from}{filter}"))
    }

    fn distinct(&mut self, depth: u32) -> Query {
        let (from, columns) = self.relation(depth - 1);
        let filter = self.filter(&columns);
        let items = self.some_scalars(&columns, 3);
        select("SELECT DISTINCT", &items, &format!("FROM {from}{filter}"))
    }

    fn aggregate(&mut self, depth: u32) -> Query {
        let (from, columns) = self.relation(depth);
        let filter = self.filter(&columns);
        let mut groups = if self.one_in(6) { Vec::new() } else { self.some_scalars(&columns, 2) };
        // DataFusion gives a cast the name of what is cast, and does not group by two of one name.
        let bare = |(expr, _): &Item| expr.trim_start_matches("{num:").trim_end_matches('}').to_owned();
        if groups.len() == 2 && bare(&groups[0]) == bare(&groups[1]) {
            groups.pop();
        }
        let mut items = groups.clone();
        for _ in 0..self.rng.u32(1..4) {
            let call = self.aggregate_call(&columns);
            items.push(self.item(call));
        }
        let having = if self.one_in(5) { " HAVING count(*) > 1" } else { "" };
        select("SELECT", &items, &format!("FROM {from}{filter}{}{having}", group_by(&groups)))
    }

    fn aggregate_call(&mut self, columns: &[Column]) -> Column {
        let argument = match self.some_failing(columns, 4) {
            Some(failing) => failing,
            None => self.pick(columns).clone(),
        };
        let column = &argument.name;
        let (call, data_type, is_tame) = match (self.rng.u32(..10), argument.data_type) {
            (0, _) => ("count(*)".to_owned(), Type::Int, false),
            (1, _) => (format!("count({column})"), Type::Int, false),
            (2, _) => (format!("count(DISTINCT {column})"), Type::Int, false),
            (3, other) => (format!("min({column})"), other, argument.is_tame),
            (4, other) => (format!("max({column})"), other, argument.is_tame),
            (5, Type::Int) => (format!("avg({column})"), Type::Float, false),
            (6, Type::Int) => (format!("bit_or({column})"), Type::Int, argument.is_tame),
            (7, Type::Int) => (format!("sum(DISTINCT {column})"), Type::Int, argument.is_tame),
            (5, Type::Float) => (format!("avg({column})"), Type::Float, false),
            (6, Type::Decimal) => (format!("avg({column})"), Type::Decimal, false),
            (_, Type::Text | Type::Big | Type::Wide) => {
                (format!("max({column})"), argument.data_type, argument.is_tame)
            }
            (_, other) => (format!("sum({column})"), other, argument.is_tame),
        };
        let filter =
            if self.one_in(6) { format!(" FILTER (WHERE {})", self.predicate(columns)) } else { String::new() };
        Column { name: call + &filter, data_type, is_tame }
    }

    /// Two selections of like-typed columns.
    fn pair(&mut self) -> (Query, Query) {
        let mut shape: Vec<Type> =
            (0..self.rng.usize(1..3)).map(|_| *self.pick(&[Type::Int, Type::Int, Type::Text])).collect();
        // Of keys on both sides, so that a key of one that passes for a key of both shows.
        let is_keyed = self.one_in(3);
        if is_keyed {
            shape[0] = Type::Int;
        }
        let mut side = || {
            let (from, columns) = if is_keyed { self.table("r") } else { self.relation(1) };
            let items: Vec<Item> = shape
                .iter()
                .enumerate()
                .map(|(i, wanted)| {
                    if is_keyed && i == 0 {
                        return self.item(columns[0].clone());
                    }
                    let like: Vec<_> = columns.iter().filter(|column| column.data_type == *wanted).cloned().collect();
                    let failing = if *wanted == Type::Int { self.some_failing(&columns, 3) } else { None };
                    let expr = failing.unwrap_or_else(|| self.pick(&like).clone());
                    self.item(expr)
                })
                .collect();
            let filter = self.filter(&columns);
            select("SELECT", &items, &format!("FROM {from}{filter}"))
        };
        let (mut first, second) = (side(), side());
        for (column, other) in first.columns.iter_mut().zip(&second.columns) {
            column.is_tame &= other.is_tame;
        }
        (first, second)
    }

    fn union(&mut self) -> Query {
        let (first, second) = self.pair();
        let all = *self.pick(&["UNION ALL", "UNION ALL", "UNION"]);
        Query { sql: format!("{} {all} {}", first.sql, second.sql), columns: first.columns, ..Query::default() }
    }

    fn set_operation(&mut self) -> Query {
        let (first, second) = self.pair();
        let operation = *self.pick(&["INTERSECT", "EXCEPT"]);
        Query { sql: format!("{} {operation} {}", first.sql, second.sql), columns: first.columns, ..Query::default() }
    }

    fn order(&mut self, exprs: &[String]) -> String {
        let order: Vec<String> = exprs
            .iter()
            .map(|expr| format!("{expr}{}", self.pick(&["", " DESC", " NULLS FIRST", " DESC NULLS LAST"])))
            .collect();
        let limit = self.rng.u32(1..5);
        let offset = if self.one_in(3) { format!(" OFFSET {}", self.rng.u32(1..3)) } else { String::new() };
        format!(" ORDER BY {} LIMIT {limit}{offset}", order.join(", "))
    }

    /// Ordered by every column, so that ties are equal rows.
    fn top(&mut self, depth: u32) -> Query {
        let inner = self.select(depth - 1);
        let (from, columns) = self.aliased(&inner);
        let items: Vec<Item> = columns.iter().map(|column| self.item(column.clone())).collect();
        let mut exprs: Vec<String> = columns.iter().map(|column| column.name.clone()).collect();
        if let Some(failing) = self.some_failing(&columns, 3) {
            exprs.insert(0, failing.name);
        }
        let order = self.order(&exprs);
        select("SELECT", &items, &format!("FROM {from}{order}"))
    }

    /// Ordered by some of the columns, at the top, where any choice between ties is right.
    fn ties(&mut self) -> Query {
        let inner = self.select(2);
        let (from, columns) = self.aliased(&inner);
        let items: Vec<Item> = columns.iter().map(|column| self.item(column.clone())).collect();
        let mut order: Vec<usize> = (0..columns.len()).collect();
        self.rng.shuffle(&mut order);
        order.truncate(columns.len().div_ceil(2).min(2));
        let exprs: Vec<String> = order.iter().map(|&column| columns[column].name.clone()).collect();
        let end = self.order(&exprs);
        let unlimited = select("SELECT", &items, &format!("FROM {from}"));
        Query {
            sql: unlimited.sql.clone() + &end,
            window: Some(Window { unlimited: unlimited.sql, order }),
            ..unlimited
        }
    }

    /// Over a table with a key, so that the order within a partition is total.
    fn window(&mut self) -> Query {
        let columns = columns_of("r", "");
        let argument = self.some_failing(&columns, 2).map_or_else(|| "a".to_owned(), |failing| failing.name);
        let sum = format!("sum({argument})");
        let call = *self.pick(&["row_number()", "rank()", &sum, &sum, "lag(b)", "count(*)"]);
        let call = format!("{call} OVER (PARTITION BY b ORDER BY k)");
        let is_tame = !call.contains('{');
        let items = vec![
            self.item(Column { name: "k".to_owned(), data_type: Type::Int, is_tame: true }),
            self.item(Column { name: call, data_type: Type::Int, is_tame }),
        ];
        let filter = self.filter(&columns);
        select("SELECT", &items, &format!("FROM r{filter}"))
    }

    /// Rows of a table by what another holds.
    fn existence(&mut self) -> Query {
        let (outer, ..) = *self.pick(&TABLES[..COMMON]);
        let columns = columns_of(outer, "o");
        let condition = self.subquery_condition(&columns);
        let items = self.some_scalars(&columns, 3);
        let more = if self.one_in(3) { format!(" AND {}", self.predicate(&columns)) } else { String::new() };
        select("SELECT", &items, &format!("FROM {outer} o WHERE {condition}{more}"))
    }

    fn subquery_condition(&mut self, columns: &[Column]) -> String {
        let (inner, ..) = *self.pick(&TABLES[..COMMON]);
        let inner_columns = columns_of(inner, "i");
        let mut own = self.pick(&["o.a", "o.b"]).to_string();
        let mut theirs = self.pick(&["i.a", "i.b"]).to_string();
        if let Some(failing) = self.some_failing(&columns[..1], 4) {
            own = failing.name;
        }
        if let Some(failing) = self.some_failing(&inner_columns, 3) {
            theirs = failing.name;
        }
        let filter = self.filter(&inner_columns);
        let and = filter.replacen(" WHERE ", " AND ", 1);
        match self.rng.u32(..9) {
            0 => format!("{own} IN (SELECT {theirs} FROM {inner} i{filter})"),
            1..4 => format!("{own} NOT IN (SELECT {theirs} FROM {inner} i{filter})"),
            4 => format!("EXISTS (SELECT 1 FROM {inner} i WHERE {theirs} = {own}{and})"),
            5 => format!("NOT EXISTS (SELECT 1 FROM {inner} i WHERE {theirs} = {own}{and})"),
            6 => format!("{own} >= (SELECT min({theirs}) FROM {inner} i{filter})"),
            7 => format!("o.a >= (SELECT min({theirs}) FROM {inner} i WHERE i.b = o.b{and})"),
            _ => format!("o.b <> (SELECT count(*) FROM {inner} i WHERE {theirs} = {own}{and})"),
        }
    }

    /// A correlated subquery as a value.
    fn scalar_subquery(&mut self) -> Query {
        let (outer, ..) = *self.pick(&TABLES[..COMMON]);
        let (inner, ..) = *self.pick(&TABLES[..COMMON]);
        let columns = columns_of(outer, "o");
        let inner_columns = columns_of(inner, "i");
        let mut items = self.some_scalars(&columns, 2);
        let argument = self.some_failing(&inner_columns, 2).map_or_else(|| "i.a".to_owned(), |failing| failing.name);
        let call = match self.rng.u32(..4) {
            0 => "count(*)".to_owned(),
            1 => format!("sum({argument})"),
            _ => format!("max({argument})"),
        };
        let filter = self.filter(&inner_columns).replacen(" WHERE ", " AND ", 1);
        let (theirs, own) = *self.pick(&[("i.a", "o.a"), ("i.b", "o.b"), ("i.b", "o.a"), ("i.t", "o.t")]);
        let name = format!("(SELECT {call} FROM {inner} i WHERE {theirs} = {own}{filter})");
        items.push(self.item(Column { name, data_type: Type::Int, is_tame: false }));
        let outer_filter = self.filter(&columns);
        select("SELECT", &items, &format!("FROM {outer} o{outer_filter}"))
    }

    /// A relation with a key of one column, which may be NULL: its text, the key, its columns.
    fn keyed_leaf(&mut self) -> (String, Column, Vec<Column>) {
        let (from, columns) = match self.rng.u32(..5) {
            0..2 => {
                let table = *self.pick(&["r", "s"]);
                self.table(table)
            }
            2..4 => {
                let (from, columns) = self.table("r");
                let column = self.pick(&columns[1..3]).clone();
                let group = self.item(column);
                let call = self.aggregate_call(&columns);
                let items = [group.clone(), self.item(call)];
                self.aliased(&select("SELECT", &items, &format!("FROM {from}{}", group_by(&[group]))))
            }
            _ => {
                let (from, columns) = self.table("w");
                let column = self.pick(&columns[..2]).clone();
                let item = self.item(column);
                self.aliased(&select("SELECT DISTINCT", &[item], &format!("FROM {from}")))
            }
        };
        (from, columns[0].clone(), columns)
    }

    /// Joins on keys, answered by key columns of either side: what a planner concludes about which
    /// columns are unique, or equal to which, shows here.
    pub fn keyed(&mut self) -> Query {
        let (mut from, key, mut columns) = self.keyed_leaf();
        if self.rng.bool() {
            // The plainest of them: one join, and nothing that hides a row.
            let (right, right_key, right_columns) = self.keyed_leaf();
            let kind = *self.pick(&["JOIN", "LEFT JOIN", "LEFT JOIN", "RIGHT JOIN", "FULL JOIN", "FULL JOIN"]);
            let mut some_int = |columns: &[Column]| {
                let ints: Vec<_> = columns.iter().filter(|column| column.data_type == Type::Int).cloned().collect();
                self.pick(&ints).name.clone()
            };
            let (some_own, some_theirs) = (some_int(&columns), some_int(&right_columns));
            let (own, theirs) = match self.rng.u32(..4) {
                0 => (some_own, right_key.name.clone()),
                1 => (key.name.clone(), some_theirs),
                _ => (key.name.clone(), right_key.name.clone()),
            };
            write!(from, " {kind} {right} ON {own} = {theirs}").expect("text");
            let keys = match self.rng.u32(..3) {
                0 => vec![key],
                1 => vec![right_key],
                _ => vec![key, right_key],
            };
            let items: Vec<Item> = keys.into_iter().map(|key| self.item(key)).collect();
            return select("SELECT", &items, &format!("FROM {from}"));
        }
        let mut keys = vec![key];
        for _ in 0..if self.one_in(3) { 2 } else { 1 } {
            let (right, key, right_columns) = self.keyed_leaf();
            let kind = *self.pick(&[
                "JOIN",
                "JOIN",
                "LEFT JOIN",
                "LEFT JOIN",
                "LEFT JOIN",
                "RIGHT JOIN",
                "FULL JOIN",
                "FULL JOIN",
            ]);
            let int = |column: &&Column| column.data_type == Type::Int;
            let (own, theirs) = match self.rng.u32(..4) {
                0 => {
                    let ints: Vec<_> = columns.iter().filter(int).cloned().collect();
                    (self.pick(&ints).clone(), key.clone())
                }
                1 => {
                    let ints: Vec<_> = right_columns.iter().filter(int).cloned().collect();
                    (self.pick(&keys).clone(), self.pick(&ints).clone())
                }
                _ => (self.pick(&keys).clone(), key.clone()),
            };
            write!(from, " {kind} {right} ON {} = {}", own.name, theirs.name).expect("text");
            if self.one_in(6) {
                write!(from, " AND {}", self.predicate(&columns)).expect("text");
            }
            if self.one_in(6) {
                write!(from, " AND {}", self.predicate(&right_columns)).expect("text");
            }
            keys.push(key);
            columns.extend(right_columns);
        }
        self.rng.shuffle(&mut keys);
        keys.truncate(self.rng.usize(1..=keys.len()));
        let mut items: Vec<Item> = keys.into_iter().map(|key| self.item(key)).collect();
        if self.rng.bool() {
            items.extend(self.some_scalars(&columns, 2));
        }
        let filter = if self.one_in(6) { self.filter(&columns) } else { String::new() };
        select("SELECT", &items, &format!("FROM {from}{filter}"))
    }

    /// A key that is declared and is one.
    fn with_right_key(&mut self) -> Query {
        let (from, columns, unique) = match self.rng.u32(..3) {
            // Groups, through a wrapper.
            0 => {
                let (from, columns) = self.relation(2);
                let filter = self.filter(&columns);
                let groups: Vec<Item> = (0..self.rng.usize(1..3))
                    .map(|_| {
                        let column = self.pick(&columns).clone();
                        self.item(column)
                    })
                    .collect();
                let call = self.aggregate_call(&columns);
                let items = [groups.clone(), vec![self.item(call)]].concat();
                let query = select("SELECT", &items, &format!("FROM {from}{filter}{}", group_by(&groups)));
                let (from, columns) = self.aliased(&query);
                (from, columns, groups.len())
            }
            1 => {
                let query = self.distinct(2);
                let (from, columns) = self.aliased(&query);
                let all = columns.len();
                (from, columns, all)
            }
            // Each row of `r` meets at most one of the others.
            _ => {
                let (mut from, mut columns) = self.table("r");
                for _ in 0..self.rng.u32(1..3) {
                    let (right, right_columns) = self.table("s");
                    let kind = *self.pick(&["JOIN", "LEFT JOIN"]);
                    let own = self.pick(&columns[..3]).name.clone();
                    write!(from, " {kind} {right} ON {} = {own}", right_columns[0].name).expect("text");
                    columns.extend(right_columns);
                }
                (from, columns, 1)
            }
        };
        let filter = self.filter(&columns);
        let mut items: Vec<Item> = columns[..unique].iter().map(|column| self.item(column.clone())).collect();
        items.extend(self.some_scalars(&columns, 2));
        Query { key: Some((0..unique).collect()), ..select("SELECT", &items, &format!("FROM {from}{filter}")) }
    }

    /// A key that is declared and holds only at times. Nothing else fails here.
    fn with_doubtful_key(&mut self) -> Query {
        let faults = std::mem::take(&mut self.faults);
        let (from, columns, end, unique) = match self.rng.u32(..3) {
            0 => {
                let (left, mut columns) = self.table("r");
                let (right, right_columns) = self.table("s");
                let on = format!("{} = {}", columns[2].name, right_columns[2].name);
                let end = format!(" WHERE {} < 4", columns[0].name);
                columns.extend(right_columns);
                (format!("{left} JOIN {right} ON {on}"), columns, end, 1)
            }
            1 => {
                let (from, mut columns) = self.table("s");
                let end = format!(" WHERE {} < {}", columns[0].name, self.rng.u32(3..8));
                columns.remove(0);
                (from, columns, end, 2)
            }
            _ => {
                let (from, columns) = self.table("w");
                let end = format!(" WHERE {}", self.comparison(&columns[2]));
                (from, columns, end, 2)
            }
        };
        let mut items: Vec<Item> = columns[..unique].iter().map(|column| self.item(column.clone())).collect();
        items.extend(self.some_scalars(&columns, 2));
        self.faults = faults;
        Query { key: Some((0..unique).collect()), ..select("SELECT", &items, &format!("FROM {from}{end}")) }
    }

    /// An expression that fails for some rows where dropping those rows would bend what others get.
    fn bent(&mut self) -> Query {
        let (own, ..) = *self.pick(&TABLES[..COMMON]);
        let (other, ..) = *self.pick(&TABLES[..COMMON]);
        let (left, columns) = self.table(own);
        let (right, right_columns) = self.table(other);
        let can_fail = |column: &&Column| column.is_tame;
        let failing: Vec<_> = columns.iter().filter(can_fail).cloned().collect();
        let right_failing: Vec<_> = right_columns.iter().filter(can_fail).cloned().collect();
        let hole = |queries: &mut Queries, columns: &[Column]| {
            let column = queries.pick(columns).clone();
            queries.failing(&column).expect("faults are asked for")
        };
        let is_int = |column: &&Column| column.data_type == Type::Int;
        let ints: Vec<_> = columns.iter().filter(is_int).cloned().collect();
        let right_ints: Vec<_> = right_columns.iter().filter(is_int).cloned().collect();
        let int = self.pick(&ints).name.clone();
        let right_int = self.pick(&right_ints).name.clone();
        let outer = *self.pick(&["LEFT JOIN", "LEFT JOIN", "RIGHT JOIN", "FULL JOIN"]);
        let mine = hole(self, &failing);
        let theirs = hole(self, &right_failing);
        let number = |name: String| Column { name, data_type: Type::Int, is_tame: false };
        match self.rng.u32(..9) {
            0 => {
                let inner = [self.item(number(right_int)), self.item(number(theirs))];
                let (right, columns) = self.aliased(&select("SELECT", &inner, &format!("FROM {right}")));
                let value = if self.rng.bool() {
                    format!("coalesce({}, -1)", columns[1].name)
                } else {
                    columns[1].name.clone()
                };
                let items = [self.item(number(int.clone())), self.item(number(value))];
                select("SELECT", &items, &format!("FROM {left} {outer} {right} ON {int} = {}", columns[0].name))
            }
            1..3 => {
                let on = if self.rng.bool() {
                    format!("{int} = {theirs}")
                } else {
                    format!("{int} = {right_int} AND {theirs} >= 1")
                };
                let all = [columns, right_columns].concat();
                let items = self.some_scalars(&all, 3);
                select("SELECT", &items, &format!("FROM {left} {outer} {right} ON {on}"))
            }
            3 => {
                let condition = match self.rng.u32(..3) {
                    0 => format!("NOT EXISTS (SELECT 1 FROM {right} WHERE {theirs} = {int})"),
                    1 => format!("NOT EXISTS (SELECT 1 FROM {right} WHERE {right_int} = {int} AND {theirs} > 1)"),
                    _ => format!("{int} NOT IN (SELECT {theirs} FROM {right})"),
                };
                let items = self.some_scalars(&columns, 3);
                select("SELECT", &items, &format!("FROM {left} WHERE {condition}"))
            }
            4..6 => {
                let group = if self.rng.bool() { mine.clone() } else { int };
                let group = self.item(number(group));
                let calls =
                    [number(format!("sum({mine})")), number("count(*)".to_owned()), self.aggregate_call(&columns)];
                let call = self.pick(&calls).clone();
                let items = [group.clone(), self.item(call)];
                let filter = if self.one_in(3) { format!(" WHERE {mine} <> 2") } else { String::new() };
                select("SELECT", &items, &format!("FROM {left}{filter}{}", group_by(&[group])))
            }
            6 => {
                let operation = *self.pick(&["EXCEPT", "INTERSECT", "UNION"]);
                let item = self.item(number(int));
                let filter = if self.rng.bool() { format!("{theirs} > 1") } else { "true".to_owned() };
                let value = if self.rng.bool() { theirs } else { right_int };
                let value = self.item(number(value));
                let first = select("SELECT", &[item], &format!("FROM {left}"));
                let second = select("SELECT", &[value], &format!("FROM {right} WHERE {filter}"));
                Query { sql: format!("{} {operation} {}", first.sql, second.sql), ..first }
            }
            7 => {
                let items: Vec<Item> = columns.iter().map(|column| self.item(column.clone())).collect();
                let exprs: Vec<String> =
                    std::iter::once(mine).chain(columns.iter().map(|column| column.name.clone())).collect();
                let order = self.order(&exprs);
                select("SELECT", &items, &format!("FROM {left}{order}"))
            }
            _ => self.window(),
        }
    }

    /// Sums that may leave the range of their type.
    fn overflow(&mut self) -> Query {
        let (mut from, columns) = self.table("v");
        if self.one_in(3) {
            let (right, right_columns) = self.table("r");
            write!(from, " JOIN {right} ON {} = {}", right_columns[1].name, columns[1].name).expect("text");
        }
        let groups = if self.one_in(4) { Vec::new() } else { vec![self.item(columns[1].clone())] };
        let sums = [("sum", Type::Big, &columns[2]), ("wide", Type::Wide, &columns[3])];
        let mut items = groups.clone();
        let first = self.rng.usize(..2);
        for (kind, data_type, column) in &sums[first..(first + self.rng.usize(1..3)).min(2)] {
            items.push(self.item(Column {
                name: format!("{{{kind}:{}}}", column.name),
                data_type: *data_type,
                is_tame: false,
            }));
        }
        items.push(self.item(Column { name: "count(*)".to_owned(), data_type: Type::Int, is_tame: false }));
        let filter = if self.rng.bool() { format!(" WHERE {}", self.comparison(&columns[1])) } else { String::new() };
        Query { is_exact: true, ..select("SELECT", &items, &format!("FROM {from}{filter}{}", group_by(&groups))) }
    }
}

/// The columns of a table, qualified where there is an alias.
fn columns_of(table: &str, alias: &str) -> Vec<Column> {
    let (.., columns) = TABLES.iter().find(|(name, ..)| *name == table).expect("a known table");
    let qualifier = if alias.is_empty() { String::new() } else { format!("{alias}.") };
    columns
        .iter()
        .map(|(name, data_type)| Column {
            name: format!("{qualifier}{name}"),
            data_type: *data_type,
            is_tame: BASE.contains(name),
        })
        .collect()
}

fn group_by(groups: &[Item]) -> String {
    if groups.is_empty() {
        return String::new();
    }
    format!(" GROUP BY {}", groups.iter().map(|(expr, _)| expr.clone()).collect::<Vec<_>>().join(", "))
}

fn select(verb: &str, items: &[Item], rest: &str) -> Query {
    let list: Vec<String> = items.iter().map(|(expr, column)| format!("{expr} AS {}", column.name)).collect();
    Query {
        sql: format!("{verb} {} {rest}", list.join(", ")),
        columns: items.iter().map(|(_, column)| column.clone()).collect(),
        ..Query::default()
    }
}
