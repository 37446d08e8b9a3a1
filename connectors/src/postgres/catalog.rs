//! Tables as the database has them, and what stands in the way of reading them.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, IntervalUnit, Schema, SchemaRef, TimeUnit};
use pipeline::table::Identity;
use tokio_postgres::Client;

use super::connect::Target;
use super::error::SourceError;

/// Precision and scale of a `numeric` that declares none: 20 digits before the point and 18 after.
/// A value that does not fit is refused by name, never rounded.
const NUMERIC_DEFAULT: (u8, i8) = (38, 18);

/// A table that a project wants.
#[derive(Clone, Debug)]
pub struct TableRequest {
    /// Its name in the project.
    pub name: String,
    /// Its schema in Postgres.
    pub schema: String,
    /// Its name in Postgres.
    pub table: String,
    /// The columns that the project declares, with their types; `None` for all columns as they are.
    pub columns: Option<Vec<(String, DataType)>>,
}

/// A table as found.
#[derive(Clone, Debug)]
pub struct DiscoveredTable {
    /// Its name in the project.
    pub name: String,
    /// Its schema in Postgres.
    pub pg_schema: String,
    /// Its name in Postgres.
    pub pg_table: String,
    /// Whether it is partitioned, so that its rows live in other tables.
    pub is_partitioned: bool,
    /// Postgres's name of it; a table that is dropped and made again has another.
    pub oid: u32,
    /// Oids of the types of the columns, for noticing that one changed.
    pub type_ids: Vec<u32>,
    /// The columns.
    pub schema: SchemaRef,
    /// What tells rows apart in the log.
    pub identity: Identity,
    /// Rows that Postgres thinks it has.
    pub estimated_rows: Option<u64>,
}

impl DiscoveredTable {
    /// `"schema"."table"`.
    #[must_use]
    pub fn quoted(&self) -> String {
        format!("{}.{}", quote(&self.pg_schema), quote(&self.pg_table))
    }
}

/// Something that keeps a table, or the whole database, from being read.
#[derive(Debug)]
pub struct Problem {
    /// The table's name in the project; `None` when it is about the database.
    pub table: Option<String>,
    /// What, and the remedy.
    pub error: SourceError,
}

/// An identifier, quoted for SQL.
#[must_use]
pub fn quote(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A string, quoted for SQL.
#[must_use]
pub fn quote_literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// Looks the tables up, and everything that they need to be read. All problems are found at once.
///
/// # Errors
/// The problems, or why the database could not be asked.
pub async fn discover(target: &Target, requests: &[TableRequest]) -> Result<Vec<DiscoveredTable>, Vec<Problem>> {
    let of_database = |error| vec![Problem { table: None, error }];
    let client = target.sql().await.map_err(of_database)?;
    let mut problems: Vec<Problem> = preflight(target, &client).await.map_err(of_database)?;
    let mut tables = Vec::new();
    for request in requests {
        match find_table(target, &client, request).await {
            Ok(table) => tables.push(table),
            Err(errors) => {
                problems.extend(errors.into_iter().map(|error| Problem { table: Some(request.name.clone()), error }))
            }
        }
    }
    if problems.is_empty() { Ok(tables) } else { Err(problems) }
}

fn not_ready(what: impl Into<String>, remedy: impl Into<String>) -> SourceError {
    SourceError::NotReady { what: what.into(), remedy: remedy.into() }
}

/// What the server as a whole must allow.
async fn preflight(target: &Target, client: &Client) -> Result<Vec<Problem>, SourceError> {
    let row = client
        .query_one(
            "SELECT current_setting('wal_level'), r.rolreplication OR r.rolsuper
                 OR EXISTS (SELECT FROM pg_roles g WHERE g.rolname IN ('rds_replication', 'azure_pg_admin') AND pg_has_role(r.oid, g.oid, 'member')),
                 current_setting('max_replication_slots')::int - (SELECT count(*) FROM pg_replication_slots)::int,
                 current_setting('max_wal_senders')::int - (SELECT count(*) FROM pg_stat_replication)::int,
                 current_user::text
             FROM pg_roles r WHERE r.rolname = current_user",
            &[],
        )
        .await
        .map_err(|error| target.sql_error(error))?;
    let (wal_level, may_replicate): (String, bool) = (row.get(0), row.get(1));
    let (slots, senders, user): (i32, i32, String) = (row.get(2), row.get(3), row.get(4));
    let mut problems = Vec::new();
    let mut problem =
        |what: String, remedy: String| problems.push(Problem { table: None, error: not_ready(what, remedy) });
    if wal_level != "logical" {
        problem(
            format!("wal_level of {} is {wal_level}, and reading changes needs logical", target.server()),
            "run ALTER SYSTEM SET wal_level = logical, then restart Postgres".to_owned(),
        );
    }
    if !may_replicate {
        problem(
            format!("role {user} may not read the replication stream"),
            format!("run ALTER ROLE {} REPLICATION", quote(&user)),
        );
    }
    if slots <= 0 {
        problem(
            format!("all replication slots of {} are in use", target.server()),
            "drop a slot that nobody reads (pg_replication_slots), or raise max_replication_slots and restart Postgres"
                .to_owned(),
        );
    }
    if senders <= 0 {
        problem(
            format!("all WAL senders of {} are in use", target.server()),
            "raise max_wal_senders and restart Postgres".to_owned(),
        );
    }
    Ok(problems)
}

async fn find_table(
    target: &Target,
    client: &Client,
    request: &TableRequest,
) -> Result<DiscoveredTable, Vec<SourceError>> {
    let one = |error| vec![error];
    let shown = format!("{}.{}", request.schema, request.table);
    let sql_error = |error| vec![target.sql_error(error)];
    let row = client
        .query_opt(
            "SELECT c.oid, c.relkind::text, c.relreplident::text, c.reltuples::int8, has_table_privilege(c.oid, 'SELECT'),
                    row_security_active(c.oid), c.relpersistence::text, has_schema_privilege(n.oid, 'USAGE'),
                    current_user::text
             FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = $1 AND c.relname = $2",
            &[&request.schema, &request.table],
        )
        .await
        .map_err(sql_error)?;
    let Some(row) = row else {
        let remedy = similar_tables(client, request).await.map_or_else(
            || format!("create it, or name another with table = 'schema.table' (database {})", target.database),
            |like| format!("did you mean {like}?"),
        );
        return Err(one(not_ready(format!("there is no table {shown} in {}", target.database), remedy)));
    };
    let (oid, kind, replica_identity): (u32, String, String) = (row.get(0), row.get(1), row.get(2));
    let (estimate, may_select, row_security, persistence): (i64, bool, bool, String) =
        (row.get(3), row.get(4), row.get(5), row.get(6));
    let mut errors = Vec::new();
    if !matches!(kind.as_str(), "r" | "p") || persistence != "p" {
        return Err(one(not_ready(
            format!("{shown} is no ordinary table, so its changes are not in the log"),
            "read the tables it is made from",
        )));
    }
    let (may_use, user): (bool, String) = (row.get(7), row.get(8));
    if !may_use {
        errors.push(not_ready(
            format!("role {user} may not use the schema {}", request.schema),
            format!("run GRANT USAGE ON SCHEMA {} TO {}", quote(&request.schema), quote(&user)),
        ));
    }
    if !may_select {
        errors.push(not_ready(
            format!("reading {shown} is not permitted"),
            format!("run GRANT SELECT ON {shown} to the role of the url"),
        ));
    }
    if row_security {
        errors.push(not_ready(
            format!("row security hides rows of {shown} from this role, and the log does not know of it"),
            "use a role with BYPASSRLS".to_owned(),
        ));
    }
    let (names, type_ids, fields) = columns(client, request, oid, &shown).await.map_err(|error| match error {
        ColumnError::Sql(error) => vec![target.sql_error(error)],
        ColumnError::Declared(errors) => errors,
    })?;
    match identity(client, oid, &replica_identity, &names, &shown).await.map_err(sql_error)? {
        Ok(identity) if errors.is_empty() => Ok(DiscoveredTable {
            name: request.name.clone(),
            pg_schema: request.schema.clone(),
            pg_table: request.table.clone(),
            is_partitioned: kind == "p",
            oid,
            type_ids,
            schema: Arc::new(Schema::new(fields)),
            identity,
            estimated_rows: u64::try_from(estimate).ok(),
        }),
        Ok(_) => Err(errors),
        Err(error) => {
            errors.push(error);
            Err(errors)
        }
    }
}

async fn similar_tables(client: &Client, request: &TableRequest) -> Option<String> {
    let row = client
        .query_opt(
            "SELECT n.nspname || '.' || c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
             WHERE c.relkind IN ('r', 'p') AND n.nspname NOT IN ('pg_catalog', 'information_schema')
               AND (c.relname = $1 OR lower(c.relname) = lower($1) OR c.relname LIKE $1 || '%' OR $1 LIKE c.relname || '%')
             ORDER BY c.relname = $1 DESC, n.nspname LIMIT 1",
            &[&request.table],
        )
        .await
        .ok()??;
    row.get(0)
}

enum ColumnError {
    Sql(tokio_postgres::Error),
    Declared(Vec<SourceError>),
}

/// The columns that are read: names, type oids, and fields.
async fn columns(
    client: &Client,
    request: &TableRequest,
    oid: u32,
    shown: &str,
) -> Result<(Vec<String>, Vec<u32>, Vec<Field>), ColumnError> {
    // Domains are followed to what they are made of. Generated columns are left out: the log
    // does not hold them before Postgres 18, so a copy that had them would never change.
    let rows = client
        .query(
            "WITH RECURSIVE base AS (
                 SELECT attnum, attname::text AS name, atttypid AS declared, atttypid AS type, atttypmod AS modifier,
                        format_type(atttypid, atttypmod) AS shown
                 FROM pg_attribute WHERE attrelid = $1 AND attnum > 0 AND NOT attisdropped AND attgenerated = ''
               UNION ALL
                 SELECT b.attnum, b.name, b.declared, t.typbasetype, CASE WHEN t.typtypmod <> -1 THEN t.typtypmod ELSE b.modifier END, b.shown
                 FROM base b JOIN pg_type t ON t.oid = b.type WHERE t.typtype = 'd'
             )
             SELECT b.name, b.declared, b.type, b.modifier, CASE WHEN t.typcategory = 'A' THEN t.typelem ELSE 0 END, b.shown
             FROM base b JOIN pg_type t ON t.oid = b.type WHERE t.typtype <> 'd' ORDER BY b.attnum",
            &[&oid],
        )
        .await
        .map_err(ColumnError::Sql)?;
    let found: Vec<(String, u32, DataType, String)> = rows
        .iter()
        .map(|row| {
            let (name, declared, type_id): (String, u32, u32) = (row.get(0), row.get(1), row.get(2));
            let (modifier, element): (i32, u32) = (row.get(3), row.get(4));
            (name, declared, data_type(type_id, modifier, element), row.get(5))
        })
        .collect();
    let Some(wanted) = &request.columns else {
        let fields = found.iter().map(|(name, _, data_type, _)| Field::new(name, data_type.clone(), true)).collect();
        return Ok((
            found.iter().map(|column| column.0.clone()).collect(),
            found.iter().map(|column| column.1).collect(),
            fields,
        ));
    };
    let mut errors = Vec::new();
    let (mut names, mut type_ids, mut fields) = (Vec::new(), Vec::new(), Vec::new());
    for (name, declared) in wanted {
        let Some((_, type_id, actual, shown_type)) = found.iter().find(|(found, ..)| found == name) else {
            errors.push(not_ready(
                format!("{shown} has no column {name}"),
                format!("it has {}", found.iter().map(|c| c.0.as_str()).collect::<Vec<_>>().join(", ")),
            ));
            continue;
        };
        if !can_be_read_as(actual, declared) {
            errors.push(not_ready(
                format!(
                    "column {name} of {shown} is declared as {}, and the database has {shown_type}",
                    type_name(declared)
                ),
                "declare the type that the database has, or TEXT to take values as Postgres prints them",
            ));
        }
        names.push(name.clone());
        type_ids.push(*type_id);
        fields.push(Field::new(name, declared.clone(), true));
    }
    if errors.is_empty() { Ok((names, type_ids, fields)) } else { Err(ColumnError::Declared(errors)) }
}

/// Whether the text of one type can be read as another without loss (or with a refusal by name).
fn can_be_read_as(actual: &DataType, declared: &DataType) -> bool {
    use DataType::{Decimal128, Decimal256, Float32, Float64, Int16, Int32, Int64, Utf8};
    actual == declared
        || matches!(
            (actual, declared),
            (_, Utf8)
                | (Int16, Int32 | Int64)
                | (Int32, Int64)
                | (Float32, Float64)
                | (Int16 | Int32 | Int64 | Decimal128(..) | Decimal256(..), Decimal128(..) | Decimal256(..))
                | (Decimal128(..) | Decimal256(..), Float64)
        )
}

/// What tells rows of a table apart in the log.
async fn identity(
    client: &Client,
    oid: u32,
    replica_identity: &str,
    columns: &[String],
    shown: &str,
) -> Result<Result<Identity, SourceError>, tokio_postgres::Error> {
    let rows = client
        .query(
            "SELECT i.indisprimary, i.indisreplident,
                    ARRAY(SELECT a.attname::text FROM unnest(i.indkey) WITH ORDINALITY k (number, place)
                          JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.number
                          WHERE k.place <= i.indnkeyatts ORDER BY place)
             FROM pg_index i WHERE i.indrelid = $1 AND i.indimmediate AND (i.indisprimary OR i.indisreplident)",
            &[&oid],
        )
        .await?;
    let index =
        |column: usize| rows.iter().find(|row| row.get::<_, bool>(column)).map(|row| row.get::<_, Vec<String>>(2));
    let key = match replica_identity {
        "i" => index(1),
        "n" => None,
        _ => index(0),
    };
    Ok(match (key, replica_identity) {
        (Some(key), _) => {
            let places: Option<Vec<usize>> =
                key.iter().map(|name| columns.iter().position(|column| column == name)).collect();
            places.map(Identity::Key).ok_or_else(|| {
                not_ready(
                    format!("the key of {shown} is ({}), and not all of it is declared", key.join(", ")),
                    "declare every column of the key",
                )
            })
        }
        (None, "f") => Ok(Identity::WholeRow),
        (None, _) => Err(not_ready(
            format!("{shown} has no key, so Postgres does not tell which row changed"),
            format!("run ALTER TABLE {shown} ADD PRIMARY KEY (…), or ALTER TABLE {shown} REPLICA IDENTITY FULL"),
        )),
    })
}

/// The Arrow type of a Postgres type; text for whatever has none.
fn data_type(type_id: u32, modifier: i32, element: u32) -> DataType {
    if element != 0 {
        return match scalar_type(element, modifier) {
            Some(element) => DataType::List(Arc::new(Field::new("item", element, true))),
            None => DataType::List(Arc::new(Field::new("item", DataType::Utf8, true))),
        };
    }
    scalar_type(type_id, modifier).unwrap_or(DataType::Utf8)
}

/// By the fixed oids of the built-in types.
fn scalar_type(type_id: u32, modifier: i32) -> Option<DataType> {
    Some(match type_id {
        16 => DataType::Boolean,
        17 => DataType::Binary,
        20 => DataType::Int64,
        21 => DataType::Int16,
        23 => DataType::Int32,
        700 => DataType::Float32,
        701 => DataType::Float64,
        1082 => DataType::Date32,
        1083 => DataType::Time64(TimeUnit::Microsecond),
        1114 => DataType::Timestamp(TimeUnit::Microsecond, None),
        1184 => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
        1186 => DataType::Interval(IntervalUnit::MonthDayNano),
        1700 => numeric_type(modifier),
        _ => return None,
    })
}

/// What Postgres calls the type that a column is read as; the inverse of `data_type`.
#[must_use]
pub fn type_name(data_type: &DataType) -> String {
    match data_type {
        DataType::Boolean => "boolean".to_owned(),
        DataType::Binary => "bytea".to_owned(),
        DataType::Int16 => "smallint".to_owned(),
        DataType::Int32 => "integer".to_owned(),
        DataType::Int64 => "bigint".to_owned(),
        DataType::Float32 => "real".to_owned(),
        DataType::Float64 => "double precision".to_owned(),
        DataType::Decimal128(precision, scale) | DataType::Decimal256(precision, scale) => {
            format!("numeric({precision},{scale})")
        }
        DataType::Utf8 => "text".to_owned(),
        DataType::Date32 => "date".to_owned(),
        DataType::Time64(_) => "time".to_owned(),
        DataType::Timestamp(_, None) => "timestamp".to_owned(),
        DataType::Timestamp(_, Some(_)) => "timestamptz".to_owned(),
        DataType::Interval(_) => "interval".to_owned(),
        DataType::List(item) => format!("{}[]", type_name(item.data_type())),
        // Nothing is read as another; a project may still declare it.
        other => other.to_string().to_lowercase(),
    }
}

fn numeric_type(modifier: i32) -> DataType {
    if modifier < 4 {
        return DataType::Decimal128(NUMERIC_DEFAULT.0, NUMERIC_DEFAULT.1);
    }
    let modifier = modifier - 4;
    let precision = modifier >> 16 & 0xFFFF;
    // Eleven bits, signed: Postgres allows a scale below zero and above the precision.
    let scale = ((modifier & 0x7FF) ^ 1024) - 1024;
    match (u8::try_from(precision), i8::try_from(scale)) {
        (Ok(precision), Ok(scale)) if scale >= 0 && scale <= precision.cast_signed() => match precision {
            0..=38 => DataType::Decimal128(precision, scale),
            39..=76 => DataType::Decimal256(precision, scale),
            _ => DataType::Utf8,
        },
        _ => DataType::Utf8,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `List(Int32)` and `Decimal128(38, 18)` were told to people who had written integer[] and numeric.
    #[test]
    fn types_have_the_names_of_postgres() {
        for (type_id, modifier, element, expected) in [
            (16, -1, 0, "boolean"),
            (17, -1, 0, "bytea"),
            (20, -1, 0, "bigint"),
            (21, -1, 0, "smallint"),
            (23, -1, 0, "integer"),
            (700, -1, 0, "real"),
            (701, -1, 0, "double precision"),
            (1082, -1, 0, "date"),
            (1083, -1, 0, "time"),
            (1114, -1, 0, "timestamp"),
            (1184, -1, 0, "timestamptz"),
            (1186, -1, 0, "interval"),
            (1700, -1, 0, "numeric(38,18)"),
            (1700, 4 + (50 << 16 | 10), 0, "numeric(50,10)"),
            (25, -1, 0, "text"),
            (1007, -1, 23, "integer[]"),
            (1231, -1, 1700, "numeric(38,18)[]"),
            (1009, -1, 25, "text[]"),
        ] {
            assert_eq!(type_name(&data_type(type_id, modifier, element)), expected);
        }
    }

    #[test]
    fn numeric_keeps_its_digits_or_becomes_text() {
        let modifier = |precision: i32, scale: i32| 4 + (precision << 16 | scale & 0x7FF);
        assert_eq!(numeric_type(modifier(10, 2)), DataType::Decimal128(10, 2));
        assert_eq!(numeric_type(modifier(50, 10)), DataType::Decimal256(50, 10));
        assert_eq!(numeric_type(modifier(3, -2)), DataType::Utf8);
        assert_eq!(numeric_type(modifier(2, 5)), DataType::Utf8);
        assert_eq!(numeric_type(modifier(200, 0)), DataType::Utf8);
        assert_eq!(numeric_type(-1), DataType::Decimal128(38, 18));
    }
}
