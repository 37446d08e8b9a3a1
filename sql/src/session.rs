//! DataFusion, set up so that its answers are right for deltas.
//!
//! A plan here is made once and lives on while its tables change, so nothing may be concluded from
//! what a table holds now: tables have no statistics, and the one rule that moves a LIMIT away
//! from the ORDER BY that gives it meaning is left out. Plans of the class *whole* run with one
//! partition, so that their answer depends on the order of their input alone.

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::{Result, not_impl_err};
use datafusion::execution::SessionStateBuilder;
use datafusion::logical_expr::{Expr, TableType};
use datafusion::optimizer::Optimizer;
use datafusion::physical_optimizer::optimizer::PhysicalOptimizer;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::prelude::{SessionConfig, SessionContext};

/// Moves LIMIT into scans and sorts; `lower` wants it where the query wrote it.
const RULES_LEFT_OUT: [&str; 1] = ["push_down_limit"];

/// Physical rules left out. DataFusion 55.2 moves a filter over an outer join into the wrong input
/// when both have a column of that name: in
/// `w x LEFT JOIN w y ON … RIGHT JOIN r z ON … WHERE y.a >= 2 OR z.a IS NOT NULL` it filters `z` by
/// `z.a >= 2 OR z.a IS NOT NULL`, and rows are lost. The oracle found it.
const PHYSICAL_RULES_LEFT_OUT: &str = "FilterPushdown";

/// A session without tables.
#[must_use]
pub fn session() -> SessionContext {
    let mut config = SessionConfig::new().with_target_partitions(1).with_collect_statistics(false);
    let options = config.options_mut();
    options.sql_parser.collect_spans = true;
    options.sql_parser.map_string_types_to_utf8view = false;
    options.execution.time_zone = Some("UTC".to_owned());
    let rules = Optimizer::new().rules.into_iter().filter(|rule| !RULES_LEFT_OUT.contains(&rule.name())).collect();
    let physical_rules = PhysicalOptimizer::new()
        .rules
        .into_iter()
        .filter(|rule| !rule.name().starts_with(PHYSICAL_RULES_LEFT_OUT))
        .collect();
    SessionContext::new_with_state(
        SessionStateBuilder::new()
            .with_config(config)
            .with_default_features()
            .with_optimizer_rules(rules)
            .with_physical_optimizer_rules(physical_rules)
            .build(),
    )
}

/// A source table as DataFusion sees it while planning: columns, and nothing about its rows.
#[derive(Debug)]
pub struct SourceTable(pub SchemaRef);

#[async_trait::async_trait]
impl TableProvider for SourceTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.0)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    async fn scan(
        &self,
        _: &dyn Session,
        _: Option<&Vec<usize>>,
        _: &[Expr],
        _: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        not_impl_err!("source tables are read by the pipeline")
    }
}
