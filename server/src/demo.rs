//! Projects that are in the program: for those who have neither a Postgres nor a Kafka at hand.
//!
//! Their tables are made up by the generator, so that nothing of them needs a network, a server or a
//! file.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::ValueEnum;

/// What the demo is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Shape {
    /// A shop: customers, products, orders and their lines
    Storefront,
    /// The auction house of the Nexmark benchmark: persons, auctions, bids
    Nexmark,
}

/// A project, as it is to be written.
#[derive(Clone, Copy, Debug)]
pub struct Demo {
    /// What it is about.
    pub shape: Shape,
    /// Decides all of its rows.
    pub seed: u64,
    /// Transactions a second; 0 for as fast as it goes.
    pub rate: f64,
}

/// `{seed}` and `{rate}` stand for what the demo is made of.
const STOREFRONT: [(&str, &str); 4] = [
    ("deltafront.toml", "[project]\nname = \"storefront\"\n"),
    ("tables.sql", include_str!("../demo/storefront.sql")),
    // One text for both: what runs on the example's database runs here.
    ("open_orders.sql", include_str!("../../examples/storefront/projections/open_orders.sql")),
    ("sales.sql", include_str!("../../examples/storefront/projections/sales.sql")),
];

const NEXMARK: [(&str, &str); 3] = [
    ("deltafront.toml", "[project]\nname = \"nexmark\"\n"),
    ("tables.sql", include_str!("../demo/nexmark.sql")),
    ("queries.sql", include_str!("../demo/nexmark_queries.sql")),
];

impl Demo {
    /// Its files, by name.
    #[must_use]
    pub fn files(&self) -> Vec<(&'static str, String)> {
        let files: &[(&str, &str)] = match self.shape {
            Shape::Storefront => &STOREFRONT,
            Shape::Nexmark => &NEXMARK,
        };
        let (seed, rate) = (self.seed.to_string(), self.rate.to_string());
        files.iter().map(|(name, text)| (*name, text.replace("{seed}", &seed).replace("{rate}", &rate))).collect()
    }

    /// Writes its files to a folder, which is made if there is none.
    ///
    /// # Errors
    /// When the folder holds something, which is left as it is; or when it can't be written.
    pub fn write(&self, folder: &Path) -> anyhow::Result<()> {
        let shown = folder.display();
        fs::create_dir_all(folder).with_context(|| format!("can't make {shown}"))?;
        let mut entries = fs::read_dir(folder).with_context(|| format!("can't read {shown}"))?;
        anyhow::ensure!(entries.next().is_none(), "{shown} is not empty; name a folder that is, or one to be made");
        for (name, text) in self.files() {
            fs::write(folder.join(name), text).with_context(|| format!("can't write {name} in {shown}"))?;
        }
        Ok(())
    }

    /// Writes it to a folder that goes with what is returned: a project that has started is not read
    /// again.
    ///
    /// # Errors
    /// When there is no place for temporary files.
    pub fn write_temporary(&self) -> anyhow::Result<TemporaryFolder> {
        let folder = TemporaryFolder::new().context("can't make a temporary folder")?;
        self.write(&folder.0)?;
        Ok(folder)
    }
}

/// A folder that goes when this does.
#[derive(Debug)]
pub struct TemporaryFolder(PathBuf);

impl TemporaryFolder {
    /// A folder of ours alone: one that is there already belongs to somebody else.
    fn new() -> io::Result<TemporaryFolder> {
        let process = std::process::id();
        for number in 0.. {
            let path = std::env::temp_dir().join(format!("deltafront-demo-{process}-{number}"));
            match fs::create_dir(&path) {
                Ok(()) => return Ok(TemporaryFolder(path)),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists && number < 1000 => {}
                Err(error) => return Err(error),
            }
        }
        unreachable!("the last number answers")
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TemporaryFolder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHOP: Demo = Demo { shape: Shape::Storefront, seed: 7, rate: 0.5 };

    #[test]
    fn a_folder_that_holds_something_is_left_alone() {
        let folder = TemporaryFolder::new().expect("a folder");
        let project = folder.path().join("new/shop");
        SHOP.write(&project).expect("a new folder");
        let tables = fs::read_to_string(project.join("tables.sql")).expect("a file");
        assert!(tables.contains("seed = '7', rate = '0.5'") && !tables.contains('{'), "{tables}");
        fs::write(project.join("sales.sql"), "mine").expect("a file");
        let refused = SHOP.write(&project).expect_err("it holds something");
        assert!(refused.to_string().contains("is not empty"), "{refused}");
        assert_eq!(fs::read_to_string(project.join("sales.sql")).expect("a file"), "mine");
    }

    #[test]
    fn a_temporary_folder_is_ones_own_and_goes() {
        let (one, other) = (SHOP.write_temporary().expect("a folder"), SHOP.write_temporary().expect("a folder"));
        assert_ne!(one.path(), other.path());
        let path = one.path().to_owned();
        assert!(path.join("deltafront.toml").exists());
        drop(one);
        assert!(!path.exists() && other.path().exists());
    }

    /// Both projects are right, and no operator of them costs more than what changes.
    #[tokio::test]
    async fn each_projection_costs_what_changes() {
        use crate::prepare::{Ask, prepare};
        for (shape, projections) in [(Shape::Storefront, 4), (Shape::Nexmark, 6)] {
            let folder = Demo { shape, ..SHOP }.write_temporary().expect("a folder");
            let plan = prepare(folder.path(), Ask::Databases).await.unwrap_or_else(|wrong| panic!("{wrong}")).plan;
            assert!(plan.warnings.is_empty(), "{}", plan.warnings);
            assert_eq!(plan.projections.len(), projections);
            for projection in &plan.projections {
                let explained = plan.program.explain(plan.program.projection_id(&projection.name).expect("an id"));
                assert!(!explained.contains("whole"), "{}: {explained}", projection.name);
            }
        }
    }
}
