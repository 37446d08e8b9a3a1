//! `cargo xtask`: one door to each chore, the same for people and CI.

mod bench;
mod compose;
mod demo;
mod process;
mod test;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Chores of this repository
#[derive(Debug, Parser)]
#[command(
    name = "cargo xtask",
    after_help = "Examples:\n  cargo xtask demo                 # a Postgres, a load on it, and the page\n  cargo xtask test                 # everything\n  cargo xtask test e2e socket      # the end-to-end tests with socket in their names\n  ORACLE_SEED=7 cargo xtask test oracle\n  cargo xtask bench latency"
)]
struct Cli {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Debug, Subcommand)]
enum Chore {
    /// Start a private Postgres with the storefront sample, a gentle load on it, and `deltafront run`
    Demo {
        /// Where the page is served
        #[arg(long, default_value = "127.0.0.1:8080")]
        listen: String,
        /// Transactions a second
        #[arg(long, default_value_t = 5.0)]
        rate: f64,
        /// Build with full optimisation (slower to build, quicker to run)
        #[arg(long)]
        release: bool,
    },
    /// Set up what the tests need, then run them: all, or one part
    Test {
        /// A part: unit, oracle, e2e, slt, browser, or compose (which runs only when asked for)
        part: Option<String>,
        /// Only tests whose names contain this
        filter: Option<String>,
    },
    /// Formatting, clippy, documentation and licences: what CI checks before the tests
    Lint {
        /// Format instead of complaining
        #[arg(long)]
        fix: bool,
    },
    /// Measure; each prints lines `figure NAME VALUE UNIT`
    Bench {
        /// latency, engine, or copy
        what: String,
        /// Passed on
        #[arg(trailing_var_arg = true)]
        arguments: Vec<String>,
    },
    /// Accept what snapshot tests got as what they expect
    Bless,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    if let Err(error) = process::claim_target_folder() {
        eprintln!("error: {error:#}");
        return ExitCode::FAILURE;
    }
    let done = match cli.chore {
        Chore::Demo { listen, rate, release } => demo::demo(&listen, rate, release),
        Chore::Test { part, filter } => test::test(part.as_deref(), filter.as_deref()),
        Chore::Lint { fix } => test::lint(fix),
        Chore::Bench { what, arguments } => bench::bench(&what, &arguments),
        Chore::Bless => test::bless(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
