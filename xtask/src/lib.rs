//! What chores and tests share: a private Postgres, a private Kafka, and where things are.
//!
//! Nothing but the standard library and a few small crates, so that `cargo xtask` starts at once.

pub mod postgres;
pub mod kafka;

use std::path::{Path, PathBuf};

/// The root of the workspace.
#[must_use]
pub fn root() -> PathBuf {
    // Asked when it runs, not when it was compiled: clones share their target folder, and cargo
    // may take what another clone compiled.
    let here = std::env::var_os("CARGO_MANIFEST_DIR")
        .map(PathBuf::from)
        .or_else(|| std::env::current_dir().ok())
        .unwrap_or_default();
    here.ancestors()
        .find(|folder| folder.join("xtask/Cargo.toml").exists())
        .map_or_else(|| PathBuf::from("."), Path::to_path_buf)
}

/// Where builds go: outside of the clone, so that a fresh clone finds what another has compiled.
#[must_use]
pub fn target_folder() -> PathBuf {
    if let Some(folder) = std::env::var_os("CARGO_TARGET_DIR") {
        return folder.into();
    }
    user_cache().map_or_else(|| root().join("target"), |cache| cache.join("target"))
}

/// Where what is fetched or made once a machine is kept: beside the builds of all clones.
#[must_use]
pub fn cache_folder() -> PathBuf {
    user_cache().unwrap_or_else(|| target_folder().join("cache"))
}

fn user_cache() -> Option<PathBuf> {
    let cache = std::env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache")));
    cache.map(|cache| cache.join("deltafront"))
}
