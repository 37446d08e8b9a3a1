//! What the nodes are, for people.

use crate::dataflow::Cost;
use crate::program::{Body, Program, ProjectionId};
use crate::state::Size;

impl Program {
    /// The projection's operators as a tree, each with its cost class, and with the rows and bytes
    /// of its state where it has any.
    #[must_use]
    pub fn explain(&self, id: ProjectionId) -> String {
        let sizes = self.running.state.sizes();
        let mut lines = Vec::new();
        self.explain_node(self.output(id).node, 0, &sizes, &mut lines);
        let width = lines.iter().map(|(line, ..)| line.chars().count()).max().unwrap_or(0);
        lines.into_iter().map(|(line, cost, state)| format!("{line:width$}  {cost}{state}\n")).collect()
    }

    fn explain_node(&self, id: usize, depth: usize, sizes: &[Size], lines: &mut Vec<(String, Cost, String)>) {
        let node = &self.running.nodes[id];
        let readers = node.readers.len() + node.served.len();
        let shared = if readers > 1 { format!("  (shared by {readers})") } else { String::new() };
        let of_node = || sizes.iter().filter(|size| size.name.of == node.fingerprint);
        let (rows, bytes) =
            (of_node().map(|size| size.rows).sum::<usize>(), of_node().map(|size| size.bytes).sum::<usize>());
        let state = if rows > 0 { format!("  {rows} rows, {} KiB", bytes.div_ceil(1024)) } else { String::new() };
        lines.push((format!("{}{}{shared}", "  ".repeat(depth), self.label(id)), node.cost, state));
        for &input in &node.inputs {
            self.explain_node(input, depth + 1, sizes, lines);
        }
    }

    fn label(&self, id: usize) -> String {
        let node = &self.running.nodes[id];
        match node.body {
            Body::Arrange(index)
                if self.running.nodes[node.inputs[0]]
                    .kept
                    .is_some_and(|kept| self.running.state.get(kept).is_primary(index)) =>
            {
                format!("{} (its key)", node.label)
            }
            _ => node.label.clone(),
        }
    }
}
