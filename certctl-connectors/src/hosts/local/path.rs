//! Looking at paths: what is there, and where symlinks lead.

use std::{
    collections::VecDeque,
    fs::{self, FileType, Metadata},
    io,
    os::unix::fs::MetadataExt,
    path::Path,
};

use certctl_core::{
    Error, Result, Timestamp,
    host::{FileKind, HostPath, Stat},
};

use super::{
    attributes::has_acl,
    fault::{fault, refusal},
};

const STEP: &str = "real_path";

/// As many as Linux itself follows.
const MAX_SYMLINKS: usize = 40;

pub(super) fn stat(path: &HostPath) -> Result<Option<Stat>> {
    let facts = match fs::symlink_metadata(path.as_str()) {
        Ok(facts) => facts,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        Err(error) => return Err(fault("stat", path, error)),
    };
    Ok(Some(Stat {
        kind: kind(facts.file_type()),
        size: facts.len(),
        mode: facts.mode() & 0o7777,
        uid: facts.uid(),
        gid: facts.gid(),
        modified: Timestamp::from_millis(facts.mtime() * 1000 + facts.mtime_nsec() / 1_000_000),
        mount_point: is_mount_point(path, &facts),
    }))
}

pub(super) fn kind(kind: FileType) -> FileKind {
    match kind {
        kind if kind.is_file() => FileKind::File,
        kind if kind.is_dir() => FileKind::Directory,
        kind if kind.is_symlink() => FileKind::Symlink,
        _ => FileKind::Other,
    }
}

pub(super) fn real_path(path: &HostPath) -> Result<HostPath> {
    let mut rest: VecDeque<String> = parts(path.as_str()).collect();
    let mut here = String::new();
    let mut symlinks = 0;
    while let Some(part) = rest.pop_front() {
        if part == ".." {
            here.truncate(here.rfind('/').unwrap_or(0));
            continue;
        }
        let next = format!("{here}/{part}");
        let facts = match fs::symlink_metadata(&next) {
            Ok(facts) => facts,
            Err(error) if error.kind() == io::ErrorKind::NotFound && rest.is_empty() => {
                here = next;
                break;
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(dangling(path, &next)),
            Err(error) => return Err(fault(STEP, path, error)),
        };
        if facts.is_symlink() {
            symlinks += 1;
            if symlinks > MAX_SYMLINKS {
                return Err(refusal(
                    STEP,
                    path,
                    "symlink",
                    format!(
                        "{path} leads through more than {MAX_SYMLINKS} symlinks, or in a circle; give the path of the file itself"
                    ),
                ));
            }
            trust_link(path, &here, &facts)?;
            let target = fs::read_link(&next).map_err(|error| fault(STEP, path, error))?;
            let target = target.to_str().ok_or_else(|| {
                refusal(
                    STEP,
                    path,
                    "symlink",
                    format!("the symlink {next} leads to a path that is not UTF-8"),
                )
            })?;
            if target.starts_with('/') {
                here.clear();
            }
            for part in parts(target).collect::<Vec<_>>().into_iter().rev() {
                rest.push_front(part);
            }
        } else if !facts.is_dir() && !rest.is_empty() {
            return Err(refusal(
                STEP,
                path,
                "not_a_directory",
                format!("{next} is not a directory, and {path} leads through it; correct the path"),
            ));
        } else {
            here = next;
        }
    }
    let real = HostPath::parse(if here.is_empty() { "/" } else { &here })?;
    if symlinks > 0 {
        trust_dir(path, real.parent().as_str())?;
    }
    Ok(real)
}

fn parts(path: &str) -> impl Iterator<Item = String> + '_ {
    path.split('/').filter(|part| !part.is_empty() && *part != ".").map(str::to_owned)
}

/// Whoever can change a symlink decides where the key goes.
fn trust_link(path: &HostPath, dir: &str, link: &Metadata) -> Result<()> {
    let dir = if dir.is_empty() { "/" } else { dir };
    let facts = trust_dir(path, dir)?;
    // In /tmp everybody can make symlinks, though nobody can change those of others.
    if facts.mode() & 0o002 != 0 && !is_trusted(link.uid()) {
        return Err(untrusted(path, dir, link.uid()));
    }
    Ok(())
}

fn trust_dir(path: &HostPath, dir: &str) -> Result<Metadata> {
    let facts = fs::symlink_metadata(dir).map_err(|error| fault(STEP, path, error))?;
    let mode = facts.mode();
    if !is_trusted(facts.uid()) {
        return Err(untrusted(path, dir, facts.uid()));
    }
    let sticky = mode & 0o1000 != 0;
    let group = mode & 0o020 != 0 && (!is_own_group(facts.gid()) || has_acl(Path::new(dir)));
    if !sticky && (group || mode & 0o002 != 0) {
        return Err(refusal(
            STEP,
            path,
            "untrusted_directory",
            format!(
                "{path} leads through a symlink, and others can write to the directory {dir} (mode {:04o}) on its way; \
                 take that permission away, or give the path of the file itself",
                mode & 0o7777
            ),
        )
        .with("directory", dir));
    }
    Ok(facts)
}

fn untrusted(path: &HostPath, dir: &str, uid: u32) -> Error {
    refusal(
        STEP,
        path,
        "untrusted_directory",
        format!(
            "{path} leads through a symlink, and user {uid} can change the directory {dir} on its way, or the symlink \
             in it; give that to root or to the user that this program runs as, or give the path of the file itself"
        ),
    )
    .with("directory", dir)
}

fn dangling(path: &HostPath, missing: &str) -> Error {
    refusal(
        STEP,
        path,
        "absent",
        format!(
            "{path} leads through {missing}, which does not exist; create the directory, or correct the path"
        ),
    )
}

fn is_trusted(uid: u32) -> bool {
    uid == 0 || uid == rustix::process::geteuid().as_raw()
}

fn is_own_group(gid: u32) -> bool {
    use rustix::process::{getegid, getgroups};
    gid == 0
        || gid == getegid().as_raw()
        || getgroups().is_ok_and(|groups| groups.iter().any(|group| group.as_raw() == gid))
}

/// A bind mount on the same file system has its parent's device number; only `statx` shows it.
fn is_mount_point(path: &HostPath, facts: &Metadata) -> bool {
    #[cfg(target_os = "linux")]
    {
        use rustix::fs::{AtFlags, CWD, StatxAttributes, StatxFlags, statx};
        let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
        if let Ok(found) = statx(CWD, path.as_str(), flags, StatxFlags::empty())
            && found.stx_attributes_mask.contains(StatxAttributes::MOUNT_ROOT)
        {
            return found.stx_attributes.contains(StatxAttributes::MOUNT_ROOT);
        }
    }
    fs::metadata(path.parent().as_str()).is_ok_and(|parent| parent.dev() != facts.dev())
}
