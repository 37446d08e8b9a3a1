//! What a project's projections are in TypeScript, for `@deltafront/client`.

use std::collections::BTreeSet;
use std::fmt::Write;

use arrow::datatypes::DataType;
use sql::PlannedProjection;

/// Types that the client's package has, since JSON alone does not tell.
const OF_CLIENT: [&str; 4] = ["Decimal", "Float", "Int64", "Timestamp"];

/// Declarations that make a misspelt projection or column not compile. Every column may be NULL: a query's plan does
/// not say of which it is known that they are not.
#[must_use]
pub fn declarations(project: &str, projections: &[PlannedProjection]) -> String {
    let mut body = String::new();
    let mut used = BTreeSet::new();
    for projection in projections {
        if let Some(description) = &projection.description {
            let _ = writeln!(body, "    /** {} */", description.replace("*/", "*\\/").replace('\n', " "));
        }
        let _ = writeln!(body, "    {}: {{\n      row: {{", property(&projection.name));
        for field in projection.schema.fields() {
            let _ =
                writeln!(body, "        {}: {} | null;", property(field.name()), type_of(field.data_type(), &mut used));
        }
        let key = projection.key.columns().map(|columns| {
            let names = columns.iter().map(|&column| text(projection.schema.field(column).name()));
            format!("readonly [{}]", names.collect::<Vec<_>>().join(", "))
        });
        let _ = writeln!(body, "      }};\n      key: {};\n    }};", key.as_deref().unwrap_or("null"));
    }
    let imported = OF_CLIENT.into_iter().filter(|name| used.contains(name)).collect::<Vec<_>>().join(", ");
    // An import makes it a module, which alone can add to another one.
    format!(
        "// The projections of {project}: made by `deltafront types`, not to be edited.\nimport type {{ {imported} }} from \"@deltafront/client\";\n\ndeclare module \"@deltafront/client\" {{\n  interface Projections {{\n{body}  }}\n}}\n"
    )
    .replace("import type {  } from \"@deltafront/client\";", "import \"@deltafront/client\";")
}

/// As docs/protocol.md says how values are told.
fn type_of(data_type: &DataType, used: &mut BTreeSet<&'static str>) -> String {
    let of_client = match data_type {
        DataType::Boolean => return "boolean".to_owned(),
        DataType::Int8 | DataType::Int16 | DataType::Int32 | DataType::UInt8 | DataType::UInt16 | DataType::UInt32 => {
            return "number".to_owned();
        }
        DataType::List(item) | DataType::LargeList(item) | DataType::FixedSizeList(item, _) => {
            return format!("({} | null)[]", type_of(item.data_type(), used));
        }
        DataType::Struct(fields) => {
            let fields = fields
                .iter()
                .map(|field| format!("{}: {} | null", property(field.name()), type_of(field.data_type(), used)));
            return format!("{{ {} }}", fields.collect::<Vec<_>>().join("; "));
        }
        DataType::Int64 | DataType::UInt64 => "Int64",
        DataType::Float16 | DataType::Float32 | DataType::Float64 => "Float",
        DataType::Timestamp(..) => "Timestamp",
        DataType::Decimal32(..) | DataType::Decimal64(..) | DataType::Decimal128(..) | DataType::Decimal256(..) => {
            "Decimal"
        }
        _ => return "string".to_owned(),
    };
    used.insert(of_client);
    of_client.to_owned()
}

/// A name as a property: as it is where TypeScript takes it so.
fn property(name: &str) -> String {
    let is_plain = name.chars().all(|letter| letter.is_ascii_alphanumeric() || letter == '_')
        && !name.is_empty()
        && !name.starts_with(|letter: char| letter.is_ascii_digit());
    if is_plain { name.to_owned() } else { text(name) }
}

fn text(name: &str) -> String {
    serde_json::Value::from(name).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::sync::Arc;
    use std::time::Duration;

    use arrow::datatypes::{Field, Schema, TimeUnit};
    use filter::Access;
    use pipeline::projection::ProjectionKey;

    fn planned(name: &str, key: ProjectionKey, columns: Vec<(&str, DataType)>) -> PlannedProjection {
        let fields: Vec<Field> = columns.into_iter().map(|(name, of)| Field::new(name, of, true)).collect();
        PlannedProjection {
            name: name.to_owned(),
            description: Some("What is open */ now".to_owned()),
            batch: Duration::ZERO,
            schema: Arc::new(Schema::new(fields)),
            key,
            order: Vec::new(),
            access: Access::default(),
        }
    }

    #[test]
    fn projections_are_declared_as_they_are_told() {
        let list = |of| DataType::List(Arc::new(Field::new("item", of, true)));
        let projections = [
            planned(
                "open_orders",
                ProjectionKey::Derived(vec![0]),
                vec![
                    ("id", DataType::Int64),
                    ("total", DataType::Decimal128(12, 2)),
                    ("at", DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))),
                    ("is new", DataType::Boolean),
                    ("tags", list(DataType::Utf8)),
                ],
            ),
            planned("by day", ProjectionKey::WholeRow, vec![("day", DataType::Date32), ("n", DataType::Int32)]),
        ];
        expect_test::expect![[r#"
            // The projections of shop: made by `deltafront types`, not to be edited.
            import type { Decimal, Int64, Timestamp } from "@deltafront/client";

            declare module "@deltafront/client" {
              interface Projections {
                /** What is open *\/ now */
                open_orders: {
                  row: {
                    id: Int64 | null;
                    total: Decimal | null;
                    at: Timestamp | null;
                    "is new": boolean | null;
                    tags: (string | null)[] | null;
                  };
                  key: readonly ["id"];
                };
                /** What is open *\/ now */
                "by day": {
                  row: {
                    day: string | null;
                    n: number | null;
                  };
                  key: null;
                };
              }
            }
        "#]]
        .assert_eq(&declarations("shop", &projections));
    }
}
