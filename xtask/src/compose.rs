//! `cargo xtask test compose`

use anyhow::Result;

use crate::process::{cargo_on_all, run};

/// Builds the image, brings compose up, and watches changes come through, also by way of Kafka and past its restart.
/// Needs a Docker engine (`DOCKER_HOST` is heeded; `DELTAFRONT_PROFILE=dev` builds sooner).
///
/// # Errors
/// When no engine answers, or a step fails.
pub fn test() -> Result<()> {
    run(cargo_on_all("test").args(["--test", "compose", "--", "--ignored", "--nocapture"]))
}
