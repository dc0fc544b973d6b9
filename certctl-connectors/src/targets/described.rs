//! What targets that are nothing but files and commands have in common.

use certctl_core::{
    FileTarget, Violation,
    host::HostPath,
    target::{FileLayout, FileRole, TargetFile},
};

/// A server that its files and commands describe to the end.
#[derive(Debug)]
pub(super) struct Described {
    pub(super) kind: &'static str,
    pub(super) layout: FileLayout,
}

impl FileTarget for Described {
    fn kind(&self) -> &str {
        self.kind
    }

    fn layout(&self) -> FileLayout {
        self.layout.clone()
    }
}

/// The paths of a configuration, read one by one, so that everything that is wrong with them is found.
#[derive(Default)]
pub(super) struct Paths {
    pub(super) files: Vec<TargetFile>,
    pub(super) violations: Vec<Violation>,
    pointers: Vec<&'static str>,
}

impl Paths {
    /// A file that has to be there.
    pub(super) fn required(&mut self, pointer: &'static str, path: &str, role: FileRole) {
        if path.is_empty() {
            let remedy = "give the absolute path of the file that the server reads";
            self.violations.push(Violation::new(pointer, "the path is missing", remedy));
        } else {
            self.given(pointer, path, role);
        }
    }

    /// A file that may be left away.
    pub(super) fn optional(&mut self, pointer: &'static str, path: Option<&str>, role: FileRole) {
        if let Some(path) = path {
            self.given(pointer, path, role);
        }
    }

    fn given(&mut self, pointer: &'static str, path: &str, role: FileRole) {
        let path = match HostPath::parse(path) {
            Ok(path) => path,
            Err(error) => {
                self.violations.extend_from_slice(error.below(pointer).violations());
                return;
            }
        };
        if path.as_str() == "/" || path.file_name().is_empty() {
            let message = format!("the path {path} is a directory");
            self.violations.push(Violation::new(pointer, message, "give the path of a file"));
            return;
        }
        if let Some(other) = self.files.iter().position(|file| file.path == path) {
            let message = format!("the path {path} is that of {} as well", self.pointers[other]);
            self.violations.push(Violation::new(pointer, message, "give each file a path of its own"));
            return;
        }
        let mode = if role.is_private() { 0o600 } else { 0o644 };
        self.files.push(TargetFile { path, role, mode });
        self.pointers.push(pointer);
    }
}
