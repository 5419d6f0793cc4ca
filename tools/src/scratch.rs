//! Files that are only there while a command works, and files that appear whole or not at all.

use crate::render::Failure;
use std::path::{Path, PathBuf};

/// A file beside another that goes when it is done with.
pub struct Scratch(pub PathBuf);

impl Scratch {
    /// A name beside `path` that nothing else has.
    pub fn beside(path: &Path) -> Scratch {
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".part-{}", std::process::id()));
        Scratch(name.into())
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // It may never have been made, or be renamed; a file that stays is no reason to fail.
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Writes a file, whole or not at all.
pub fn write_whole(path: &Path, text: &str) -> Result<(), Failure> {
    let part = Scratch::beside(path);
    std::fs::write(&part.0, text)
        .and_then(|()| std::fs::rename(&part.0, path))
        .map_err(|e| Failure::file("write", path, &e))
}
