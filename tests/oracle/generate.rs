//! Random tables, queries and transactions, all from one seed.

use fastrand::Rng;

/// What a column holds; each has a tiny domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    Int,
    Text,
    Float,
    Decimal,
}

/// A table's name, whether it has a primary key `k`, and its columns.
pub type TableShape = (&'static str, bool, &'static [(&'static str, Type)]);

/// The source tables: `r` and `s` have a primary key `k`, `w` is told apart by its whole rows.
pub const TABLES: [TableShape; 3] = [
    ("r", true, &[("k", Type::Int), ("a", Type::Int), ("b", Type::Int), ("t", Type::Text), ("f", Type::Float), ("d", Type::Decimal)]),
    ("s", true, &[("k", Type::Int), ("a", Type::Int), ("b", Type::Int), ("t", Type::Text), ("f", Type::Float), ("d", Type::Decimal)]),
    ("w", false, &[("a", Type::Int), ("b", Type::Int), ("t", Type::Text)]),
];

/// A query and its columns.
#[derive(Clone, Debug)]
pub struct Query {
    pub sql: String,
    pub columns: Vec<(String, Type)>,
}

/// Makes queries.
pub struct Queries {
    rng: Rng,
    names: u32,
}

impl Queries {
    pub fn new(seed: u64) -> Queries {
        Queries { rng: Rng::with_seed(seed), names: 0 }
    }

    /// A query of bounded depth.
    pub fn query(&mut self) -> Query {
        self.select(3)
    }

    fn name(&mut self, prefix: &str) -> String {
        self.names += 1;
        format!("{prefix}{}", self.names)
    }

    fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.rng.usize(..of.len())]
    }

    fn select(&mut self, depth: u32) -> Query {
        if depth == 0 {
            return self.simple(0);
        }
        match self.rng.u32(..20) {
            0..4 => self.simple(depth),
            4..10 => self.aggregate(depth),
            10..12 => self.distinct(depth),
            12..14 => self.union(depth),
            14..16 => self.top(depth),
            16 => self.set_operation(depth),
            17 => self.window(depth),
            _ => self.existence(depth),
        }
    }

    /// A relation for FROM: its text, and its columns by qualified name.
    fn relation(&mut self, depth: u32) -> (String, Vec<(String, Type)>) {
        if depth > 0 && self.rng.u32(..3) > 0 {
            return self.join(depth - 1);
        }
        self.leaf(depth)
    }

    /// A table or a subquery.
    fn leaf(&mut self, depth: u32) -> (String, Vec<(String, Type)>) {
        if depth > 1 && self.rng.u32(..3) == 0 {
            let query = self.select(depth - 1);
            let alias = self.name("q");
            let columns = query.columns.iter().map(|(name, data_type)| (format!("{alias}.{name}"), *data_type)).collect();
            return (format!("({}) {alias}", query.sql), columns);
        }
        let (table, _, columns) = *self.pick(&TABLES);
        let alias = if self.rng.bool() { self.name("x") } else { format!("{table}{}", self.name("")) };
        (format!("{table} {alias}"), columns.iter().map(|(name, data_type)| (format!("{alias}.{name}"), *data_type)).collect())
    }

    fn join(&mut self, depth: u32) -> (String, Vec<(String, Type)>) {
        let (left, left_columns) = self.relation(depth);
        let (right, right_columns) = self.leaf(depth);
        let kind = *self.pick(&["JOIN", "JOIN", "JOIN", "LEFT JOIN", "LEFT JOIN", "LEFT JOIN", "RIGHT JOIN", "FULL JOIN"]);
        let mut on = Vec::new();
        for _ in 0..self.rng.u32(1..3) {
            let (l, left_type) = self.pick(&left_columns).clone();
            let same: Vec<_> = right_columns.iter().filter(|(_, data_type)| *data_type == left_type).collect();
            if let Some((r, _)) = (!same.is_empty()).then(|| (*self.pick(&same)).clone()) {
                let l = if left_type == Type::Int && self.rng.u32(..6) == 0 { format!("{l} + 1") } else { l };
                on.push(format!("{l} = {r}"));
            }
        }
        if on.is_empty() || (kind == "JOIN" && self.rng.u32(..12) == 0) {
            on.push(self.predicate(&[left_columns.clone(), right_columns.clone()].concat()));
        }
        let kind = if on.len() == 1 && !on[0].contains(" = ") { "JOIN" } else { kind };
        let columns = [left_columns, right_columns].concat();
        (format!("{left} {kind} {right} ON {}", on.join(" AND ")), columns)
    }

    fn predicate(&mut self, columns: &[(String, Type)]) -> String {
        let (column, data_type) = self.pick(columns).clone();
        match (self.rng.u32(..8), data_type) {
            (0, _) => format!("{column} IS NULL"),
            (1, _) => format!("{column} IS NOT NULL"),
            (2, _) => format!("({} OR {})", self.comparison(&column, data_type), self.predicate(columns)),
            (3, _) => format!("NOT {}", self.comparison(&column, data_type)),
            (4, Type::Int) => format!("{column} IN (0, 2)"),
            (5, Type::Text) => format!("{column} LIKE 'b%'"),
            (6, Type::Int) => format!("{column} % 2 = 0"),
            _ => self.comparison(&column, data_type),
        }
    }

    fn comparison(&mut self, column: &str, data_type: Type) -> String {
        let operator = *self.pick(&["=", "<>", "<", "<=", ">", ">="]);
        let value = match data_type {
            Type::Int => self.rng.i32(0..3).to_string(),
            Type::Text => (*self.pick(&["'a'", "'b'", "'bb'"])).to_owned(),
            Type::Float => (*self.pick(&["0.5", "-1.5", "2e0"])).to_owned(),
            Type::Decimal => (*self.pick(&["0.25", "1.50"])).to_owned(),
        };
        format!("{column} {operator} {value}")
    }

    fn filter(&mut self, columns: &[(String, Type)]) -> String {
        match self.rng.u32(..3) {
            0 => String::new(),
            1 => format!(" WHERE {}", self.predicate(columns)),
            _ => format!(" WHERE {} AND {}", self.predicate(columns), self.predicate(columns)),
        }
    }

    fn scalar(&mut self, columns: &[(String, Type)]) -> (String, Type) {
        let (column, data_type) = self.pick(columns).clone();
        match (self.rng.u32(..8), data_type) {
            (0, Type::Int) => (format!("{column} + 1"), Type::Int),
            (1, Type::Int) => (format!("CASE WHEN {column} = 0 THEN NULL ELSE 10 / {column} END"), Type::Int),
            (0, Type::Text) => (format!("upper({column})"), Type::Text),
            (1, Type::Text) => (format!("coalesce({column}, 'none')"), Type::Text),
            (0, Type::Float) => (format!("-{column}"), Type::Float),
            (1, Type::Float) => (format!("{column} * 2"), Type::Float),
            (2, Type::Int) => (format!("coalesce({column}, 7)"), Type::Int),
            _ => (column, data_type),
        }
    }

    fn some_scalars(&mut self, columns: &[(String, Type)], at_most: usize) -> Vec<(String, String, Type)> {
        (0..self.rng.usize(1..=at_most))
            .map(|_| {
                let (expr, data_type) = self.scalar(columns);
                (expr, self.name("c"), data_type)
            })
            .collect()
    }

    fn simple(&mut self, depth: u32) -> Query {
        let (from, columns) = self.relation(depth);
        let filter = self.filter(&columns);
        let items = self.some_scalars(&columns, 4);
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
        let groups = if self.rng.u32(..6) == 0 { Vec::new() } else { self.some_scalars(&columns, 2) };
        let mut items = groups.clone();
        for _ in 0..self.rng.u32(1..4) {
            let (expr, data_type) = self.aggregate_call(&columns);
            items.push((expr, self.name("c"), data_type));
        }
        let group_by = if groups.is_empty() {
            String::new()
        } else {
            format!(" GROUP BY {}", groups.iter().map(|(expr, ..)| expr.clone()).collect::<Vec<_>>().join(", "))
        };
        let having = if self.rng.u32(..5) == 0 { " HAVING count(*) > 1" } else { "" };
        select("SELECT", &items, &format!("FROM {from}{filter}{group_by}{having}"))
    }

    fn aggregate_call(&mut self, columns: &[(String, Type)]) -> (String, Type) {
        let (column, data_type) = self.pick(columns).clone();
        let (call, result) = match (self.rng.u32(..10), data_type) {
            (0, _) => ("count(*)".to_owned(), Type::Int),
            (1, _) => (format!("count({column})"), Type::Int),
            (2, _) => (format!("count(DISTINCT {column})"), Type::Int),
            (3, _) => (format!("min({column})"), data_type),
            (4, _) => (format!("max({column})"), data_type),
            (5, Type::Int) => (format!("avg({column})"), Type::Float),
            (6, Type::Int) => (format!("bit_or({column})"), Type::Int),
            (7, Type::Int) => (format!("sum(DISTINCT {column})"), Type::Int),
            (5, Type::Float) => (format!("avg({column})"), Type::Float),
            (6, Type::Decimal) => (format!("avg({column})"), Type::Decimal),
            (_, Type::Text) => (format!("max({column})"), Type::Text),
            (_, other) => (format!("sum({column})"), other),
        };
        if self.rng.u32(..6) == 0 {
            return (format!("{call} FILTER (WHERE {})", self.predicate(columns)), result);
        }
        (call, result)
    }

    /// Two selections of like-typed columns.
    fn pair(&mut self) -> (Query, Query) {
        let shape: Vec<Type> = (0..self.rng.usize(1..3)).map(|_| *self.pick(&[Type::Int, Type::Int, Type::Text])).collect();
        let mut side = || {
            let (from, columns) = self.relation(1);
            let items: Vec<(String, String, Type)> = shape
                .iter()
                .map(|wanted| {
                    let like: Vec<_> = columns.iter().filter(|(_, data_type)| data_type == wanted).cloned().collect();
                    let expr = self.pick(&like).0.clone();
                    (expr, self.name("c"), *wanted)
                })
                .collect();
            let filter = self.filter(&columns);
            select("SELECT", &items, &format!("FROM {from}{filter}"))
        };
        (side(), side())
    }

    fn union(&mut self, _: u32) -> Query {
        let (first, second) = self.pair();
        let all = *self.pick(&["UNION ALL", "UNION ALL", "UNION"]);
        Query { sql: format!("{} {all} {}", first.sql, second.sql), columns: first.columns }
    }

    fn set_operation(&mut self, _: u32) -> Query {
        let (first, second) = self.pair();
        let operation = *self.pick(&["INTERSECT", "EXCEPT"]);
        Query { sql: format!("{} {operation} {}", first.sql, second.sql), columns: first.columns }
    }

    /// Ordered by every column, so that ties are equal rows.
    fn top(&mut self, depth: u32) -> Query {
        let inner = self.select(depth - 1);
        let alias = self.name("q");
        let items: Vec<(String, String, Type)> =
            inner.columns.iter().map(|(name, data_type)| (format!("{alias}.{name}"), self.name("c"), *data_type)).collect();
        let order: Vec<String> = items
            .iter()
            .map(|(expr, ..)| {
                let direction = *self.pick(&["", " DESC", " NULLS FIRST", " DESC NULLS LAST"]);
                format!("{expr}{direction}")
            })
            .collect();
        let limit = self.rng.u32(1..5);
        let offset = if self.rng.u32(..3) == 0 { format!(" OFFSET {}", self.rng.u32(1..3)) } else { String::new() };
        select("SELECT", &items, &format!("FROM ({}) {alias} ORDER BY {} LIMIT {limit}{offset}", inner.sql, order.join(", ")))
    }

    /// Over a table with a key, so that the order within a partition is total.
    fn window(&mut self, _: u32) -> Query {
        let call = *self.pick(&["row_number()", "rank()", "sum(a)", "lag(b)", "count(*)"]);
        let items = vec![
            ("k".to_owned(), self.name("c"), Type::Int),
            (format!("{call} OVER (PARTITION BY b ORDER BY k)"), self.name("c"), Type::Int),
        ];
        let filter = self.filter(&[("a".to_owned(), Type::Int), ("t".to_owned(), Type::Text)]);
        select("SELECT", &items, &format!("FROM r{filter}"))
    }

    fn existence(&mut self, _: u32) -> Query {
        let (outer, _, columns) = *self.pick(&TABLES);
        let columns: Vec<(String, Type)> = columns.iter().map(|(name, data_type)| (format!("o.{name}"), *data_type)).collect();
        let (inner, ..) = *self.pick(&TABLES);
        let column = *self.pick(&["a", "b"]);
        let condition = match self.rng.u32(..4) {
            0 => format!("o.{column} IN (SELECT i.{column} FROM {inner} i)"),
            1 => format!("EXISTS (SELECT 1 FROM {inner} i WHERE i.{column} = o.{column})"),
            2 => format!("NOT EXISTS (SELECT 1 FROM {inner} i WHERE i.{column} = o.{column})"),
            _ => format!("o.{column} >= (SELECT min(i.{column}) FROM {inner} i)"),
        };
        let items = self.some_scalars(&columns, 3);
        select("SELECT", &items, &format!("FROM {outer} o WHERE {condition}"))
    }
}

fn select(verb: &str, items: &[(String, String, Type)], rest: &str) -> Query {
    let list: Vec<String> = items.iter().map(|(expr, name, _)| format!("{expr} AS {name}")).collect();
    Query {
        sql: format!("{verb} {} {rest}", list.join(", ")),
        columns: items.iter().map(|(_, name, data_type)| (name.clone(), *data_type)).collect(),
    }
}

/// A value of a tiny domain; `None` is NULL.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    Null,
    Int(i64),
    Text(&'static str),
    Float(f64),
    /// Hundredths.
    Decimal(i128),
}

pub fn value(rng: &mut Rng, data_type: Type) -> Value {
    if rng.u32(..4) == 0 {
        return Value::Null;
    }
    match data_type {
        Type::Int => Value::Int(rng.i64(0..3)),
        Type::Text => Value::Text(["a", "b", "bb", ""][rng.usize(..4)]),
        // Sums of these are exact in any order, so that the batch answer has one value.
        Type::Float => Value::Float([0.5, -1.5, 2.0, 0.0, -0.0][rng.usize(..5)]),
        Type::Decimal => Value::Decimal([25, 150, -75, 0][rng.usize(..4)]),
    }
}
