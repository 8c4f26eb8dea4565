//! The program that worker processes run: opened once, whatever is put in its place later.

use std::{
    env,
    fs::File,
    io,
    os::{
        fd::AsRawFd,
        unix::{fs::FileExt, process::CommandExt},
    },
    path::{Path, PathBuf},
    process::Command,
};

/// An executable, ready to be started any number of times.
pub(crate) struct Program {
    path: PathBuf,
    /// What is started; none where that takes a path.
    file: Option<File>,
}

impl Program {
    /// The one that this process runs.
    ///
    /// # Errors
    ///
    /// It cannot be opened.
    pub(crate) fn this() -> io::Result<Self> {
        let path = env::current_exe()?;
        // The file itself, though the path may lead to another one by now.
        if cfg!(target_os = "linux") {
            let file = Some(File::open("/proc/self/exe")?);
            return Ok(Self { path, file });
        }
        Self::at(&path)
    }

    /// # Errors
    ///
    /// There is none, or it cannot be opened.
    pub(crate) fn at(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let mut first = [0; 2];
        // What runs a script opens it by the name that it is given, when this descriptor is closed already.
        let is_script = file.read_at(&mut first, 0)? == 2 && first == *b"#!";
        let by_descriptor = cfg!(target_os = "linux") && !is_script;
        Ok(Self { path: std::path::absolute(path)?, file: by_descriptor.then_some(file) })
    }

    pub(super) fn command(&self) -> Command {
        let Some(file) = &self.file else { return Command::new(&self.path) };
        // The descriptor is the child's until the program has been loaded.
        let mut command = Command::new(format!("/proc/self/fd/{}", file.as_raw_fd()));
        command.arg0(&self.path);
        command
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_started_as_it_was_when_it_was_opened() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("program");
        std::os::unix::fs::symlink("/bin/echo", &path).unwrap();
        let program = Program::at(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("/bin/false", &path).unwrap();
        for _ in 0..2 {
            let output = program.command().arg("it is me").output().unwrap();
            assert_eq!((output.status.code(), &output.stdout[..]), (Some(0), &b"it is me\n"[..]));
        }
    }

    #[test]
    fn a_script_is_started_by_its_path() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("script");
        // By another process: one that this one has open for writing cannot be run.
        let text = "printf '#!/bin/sh\\nexit 7\\n' > \"$1\" && chmod 700 \"$1\"";
        let written = Command::new("sh").args(["-c", text, "sh"]).arg(&path).status().unwrap();
        assert!(written.success());
        let status = Program::at(&path).unwrap().command().status().unwrap();
        assert_eq!(status.code(), Some(7));
    }
}
