//! Extended attributes: POSIX ACLs, security contexts and whatever else hangs on a file.

use std::{
    ffi::{CStr, CString},
    fs::File,
    io,
    path::Path,
};

use rustix::{
    buffer::spare_capacity,
    fs::{
        XattrFlags, fgetxattr, fgetxattr_query, flistxattr, flistxattr_query, fremovexattr, fsetxattr,
        lgetxattr, lgetxattr_query, llistxattr, llistxattr_query,
    },
    io::Errno,
};

const ACL: &CStr = c"system.posix_acl_access";

/// Bound to the content: the kernel writes them anew, and the old ones would be wrong.
const OF_CONTENT: [&CStr; 2] = [c"security.ima", c"security.evm"];

/// The extended attributes of one file.
#[derive(Debug, Default)]
pub(super) struct Attributes(Vec<(CString, Vec<u8>)>);

/// The attribute that made the trouble, and the trouble.
#[derive(Debug)]
pub(super) struct AttributeFault {
    /// Its name.
    pub(super) name: String,
    /// What the operating system said.
    pub(super) error: io::Error,
}

impl Attributes {
    /// Those of what is at `path`; a symlink is not followed.
    pub(super) fn of(path: &Path) -> Result<Self, AttributeFault> {
        let list = sized(|| llistxattr_query(path), |list| llistxattr(path, spare_capacity(list)));
        let mut found = Vec::new();
        for name in names(list)? {
            if OF_CONTENT.contains(&name.as_c_str()) {
                continue;
            }
            let value = sized(
                || lgetxattr_query(path, name.as_c_str()),
                |value| lgetxattr(path, name.as_c_str(), spare_capacity(value)),
            );
            match value {
                Ok(value) => found.push((name, value)),
                // Removed since the list was made.
                Err(Errno::NODATA) => {}
                Err(errno) => return Err(about(&name, errno)),
            }
        }
        Ok(Self(found))
    }

    /// Gives them to a new file; an ACL that it inherited from its directory gives way.
    pub(super) fn apply(&self, file: &File) -> Result<(), AttributeFault> {
        for (name, value) in &self.0 {
            let name = name.as_c_str();
            // A security context is often the right one already, and setting it may need a privilege.
            let same =
                sized(|| fgetxattr_query(file, name), |now| fgetxattr(file, name, spare_capacity(now)))
                    .is_ok_and(|now| now == *value);
            if !same {
                fsetxattr(file, name, value, XattrFlags::empty()).map_err(|errno| about(name, errno))?;
            }
        }
        if !self.0.iter().any(|(name, _)| name.as_c_str() == ACL) {
            let list = sized(|| flistxattr_query(file), |list| flistxattr(file, spare_capacity(list)));
            if names(list)?.iter().any(|name| name.as_c_str() == ACL) {
                fremovexattr(file, ACL).map_err(|errno| about(ACL, errno))?;
            }
        }
        Ok(())
    }
}

/// Whether an ACL gives permissions that the mode does not show.
pub(super) fn has_acl(path: &Path) -> bool {
    lgetxattr_query(path, ACL).is_ok_and(|size| size > 0)
}

fn names(list: rustix::io::Result<Vec<u8>>) -> Result<Vec<CString>, AttributeFault> {
    let list = match list {
        Ok(list) => list,
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => return Ok(Vec::new()),
        Err(errno) => return Err(AttributeFault { name: "(all)".into(), error: errno.into() }),
    };
    Ok(list
        .split_inclusive(|byte| *byte == 0)
        .filter_map(|name| CStr::from_bytes_with_nul(name).ok())
        .map(CStr::to_owned)
        .collect())
}

/// Asks for the size, then for the value, again while it grows in between.
fn sized(
    size: impl Fn() -> rustix::io::Result<usize>,
    fill: impl Fn(&mut Vec<u8>) -> rustix::io::Result<usize>,
) -> rustix::io::Result<Vec<u8>> {
    let mut tries = 0;
    loop {
        let size = size()?;
        if size == 0 {
            return Ok(Vec::new());
        }
        let mut out = Vec::with_capacity(size);
        match fill(&mut out) {
            Err(Errno::RANGE) if tries < 4 => tries += 1,
            Err(errno) => return Err(errno),
            Ok(_) => return Ok(out),
        }
    }
}

fn about(name: &CStr, errno: Errno) -> AttributeFault {
    AttributeFault { name: name.to_string_lossy().into_owned(), error: errno.into() }
}
