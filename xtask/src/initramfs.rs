//! A root file system in memory for a guest: one program, which runs as its first process, and the shared libraries
//! that it needs. In the format that the kernel unpacks, cpio "newc" (Documentation/driver-api/early-userspace).

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

use crate::shell::{ask, command};

const FOLDER: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
const CHARACTER_DEVICE: u32 = 0o020_600;
/// Major and minor number of the console.
const CONSOLE: (u32, u32) = (5, 1);

/// The archive whose `/init` is `program`, with empty folders to mount `proc` and `sysfs` on.
pub(crate) fn with_init(program: &Path) -> Result<Vec<u8>> {
    let libraries = libraries(program)?;
    let mut folders: BTreeSet<&Path> = ["proc", "sys", "dev"].map(Path::new).into();
    for library in &libraries {
        let relative = library.strip_prefix("/").unwrap_or(library);
        folders.extend(relative.ancestors().skip(1).filter(|folder| *folder != Path::new("")));
    }
    let mut archive = Archive::default();
    // Sorted, so that a folder comes before what is in it.
    for folder in folders {
        archive.entry(folder, FOLDER, (0, 0), &[]);
    }
    archive.entry(Path::new("dev/console"), CHARACTER_DEVICE, CONSOLE, &[]);
    archive.entry(Path::new("init"), PROGRAM, (0, 0), &read(program)?);
    for library in &libraries {
        archive.entry(library.strip_prefix("/").unwrap_or(library), PROGRAM, (0, 0), &read(library)?);
    }
    Ok(archive.finish())
}

/// The dynamic linker and the libraries that `program` is linked with, as `ldd` lists them: `NAME => PATH (ADDRESS)`,
/// or the path alone.
fn libraries(program: &Path) -> Result<Vec<PathBuf>> {
    let listed = ask(command("ldd", "").arg(program))
        .with_context(|| format!("`ldd` does not tell the libraries of {}", program.display()))?;
    let paths = listed.split_whitespace().filter(|word| word.starts_with('/'));
    Ok(paths.map(PathBuf::from).collect())
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

#[derive(Default)]
struct Archive {
    bytes: Vec<u8>,
    entries: u32,
}

impl Archive {
    fn entry(&mut self, path: &Path, mode: u32, (major, minor): (u32, u32), content: &[u8]) {
        self.entries += 1;
        let name = path.to_string_lossy();
        let (size, name_size) = (content.len() as u32, name.len() as u32 + 1);
        // Number, mode, owner, group, links, time, size, device, device special, length of the name, checksum.
        let fields = [self.entries, mode, 0, 0, 1, 0, size, 0, 0, major, minor, name_size, 0];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    fn finish(mut self) -> Vec<u8> {
        self.entry(Path::new("TRAILER!!!"), 0, (0, 0), &[]);
        self.bytes
    }
}
