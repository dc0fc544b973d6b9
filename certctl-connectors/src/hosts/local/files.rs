//! Writing, replacing and removing files. Everything here blocks.

use std::{
    collections::BTreeSet,
    fs::{self, File, Metadata, Permissions},
    hash::{BuildHasher, Hasher, RandomState},
    io::{self, Read, Seek, SeekFrom, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, fchown},
    path::Path,
};

use certctl_core::{
    Effect, Error, Result, Secret,
    host::{Entry, FileSpec, HostPath, Staged},
};
use rustix::fs::{Mode, OFlags, open};
use zeroize::Zeroizing;

use super::{
    attributes::{AttributeFault, Attributes},
    fault::{fault, refusal},
    path::kind,
};

pub(super) fn list(dir: &HostPath) -> Result<Vec<Entry>> {
    let failed = |error| fault("list", dir, error);
    let mut entries = Vec::new();
    for entry in fs::read_dir(dir.as_str()).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let kind = kind(entry.file_type().map_err(failed)?);
        entries.push(Entry { name: entry.file_name().to_string_lossy().into(), kind });
    }
    entries.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(entries)
}

pub(super) fn read(path: &HostPath, max: u64) -> Result<Secret> {
    read_if("read", path, max, |_| Ok(()))
}

/// Reads a file that `check` finds fit.
pub(crate) fn read_if(
    step: &str,
    path: &HostPath,
    max: u64,
    check: impl Fn(&Metadata) -> Result<()>,
) -> Result<Secret> {
    // A second and a third look, in case somebody writes to it between the size and the reading.
    for _ in 0..3 {
        let (mut file, facts) = open_file(step, path, OFlags::RDONLY)?;
        check(&facts)?;
        if facts.len() > max {
            break;
        }
        // One byte more than expected tells growth; room for all of it at once leaves no copy of a key behind.
        let mut bytes = Zeroizing::new(vec![0; usize::try_from(facts.len()).unwrap_or(usize::MAX - 1) + 1]);
        let count = fill(&mut file, &mut bytes).map_err(|error| fault(step, path, error))?;
        if count < bytes.len() {
            return Ok(Secret::new(&bytes[..count]));
        }
    }
    Err(refusal(
        step,
        path,
        "too_large",
        format!(
            "{path} has more than the {max} bytes that are read at most; give the path of a smaller file"
        ),
    ))
}

pub(super) fn stage(destination: &HostPath, spec: &FileSpec, bytes: &Secret) -> Result<Staged> {
    let existing = existing("stage", destination)?;
    let attributes = existing.map(|_| Attributes::of(Path::new(destination.as_str()))).transpose();
    let attributes = attributes.map_err(|fault| lost("stage", destination, fault))?;
    let (path, file) = create_beside("stage", destination)?;
    let filled = dress(destination, "stage", &file, spec, attributes.as_ref())
        .and_then(|()| write("stage", destination, &file, bytes.expose()));
    match filled {
        // The directory needs no fsync: a staged file that a crash takes away is one that nobody misses.
        Ok(()) => Ok(Staged { path, destination: destination.clone() }),
        Err(error) => Err(discard(error, &path)),
    }
}

/// `rename(2)`, then fsync of the directories.
pub(super) fn replace(step: &str, from: &HostPath, to: &HostPath) -> Result<()> {
    if let Err(error) = fs::rename(from.as_str(), to.as_str()) {
        // Which of the two is missing matters to whoever reads it.
        let gone = error.kind() == io::ErrorKind::NotFound && fs::symlink_metadata(from.as_str()).is_err();
        return Err(fault(step, if gone { from } else { to }, error));
    }
    sync_dir(step, &to.parent())?;
    if from.parent() != to.parent() {
        sync_dir(step, &from.parent())?;
    }
    Ok(())
}

/// Renames first, then one fsync for each directory.
pub(super) fn swap_all(staged: &[Staged]) -> Result<()> {
    for (written, one) in staged.iter().enumerate() {
        if let Err(error) = fs::rename(one.path.as_str(), one.destination.as_str()) {
            let error = fault("swap", &one.destination, error);
            return Err(error.with("file", &one.destination).with("written", written));
        }
    }
    let dirs: BTreeSet<HostPath> = staged.iter().map(|one| one.destination.parent()).collect();
    dirs.iter().try_for_each(|dir| sync_dir("swap", dir))
}

pub(super) fn keep(dir: &HostPath, originals: &[HostPath], replaced: bool) -> Result<()> {
    // No fsync of the parent: whatever is done there afterwards, and made durable, makes this durable with it.
    if fs::DirBuilder::new().mode(0o700).create(dir.as_str()).is_err() {
        make_dir(dir)?;
    }
    for (number, original) in originals.iter().enumerate() {
        let to = dir.join(&number.to_string())?;
        // A second name costs neither an inode nor a wait; other file systems and some owners need a copy.
        let linked = replaced
            && existing("keep", original)?.is_some()
            && fs::hard_link(original.as_str(), to.as_str()).is_ok();
        if !linked {
            copy(original, &to)?;
        }
    }
    sync_dir("keep", dir)
}

pub(super) fn remove_dir(dir: &HostPath) -> Result<()> {
    let entries = match fs::read_dir(dir.as_str()) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(fault("remove", dir, error)),
    };
    for entry in entries {
        let path = entry.map_err(|error| fault("remove", dir, error))?.path();
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(fault("remove", dir, error)),
            _ => {}
        }
    }
    match fs::remove_dir(dir.as_str()) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(fault("remove", dir, error)),
        _ => {}
    }
    sync_dir("remove", &dir.parent())
}

pub(super) fn overwrite(path: &HostPath, bytes: &Secret) -> Result<()> {
    let (mut file, _) = open_file("overwrite", path, OFlags::WRONLY)?;
    let failed = |error| fault("overwrite", path, error).with_effect(Effect::Unknown);
    // Cut at the end, not at the start: the old blocks are used again, so that a full disk seldom matters.
    file.seek(SeekFrom::Start(0)).map_err(failed)?;
    file.write_all(bytes.expose()).map_err(failed)?;
    file.set_len(bytes.expose().len() as u64).map_err(failed)?;
    file.sync_all().map_err(failed)
}

pub(super) fn copy(from: &HostPath, to: &HostPath) -> Result<()> {
    let (mut source, facts) = open_file("copy", from, OFlags::RDONLY)?;
    let attributes = Attributes::of(Path::new(from.as_str())).map_err(|fault| lost("copy", from, fault))?;
    let file = create(to).map_err(|error| fault("copy", to, error))?;
    let spec = FileSpec { mode: facts.mode(), owner: Some((facts.uid(), facts.gid())) };
    let copied = dress(to, "copy", &file, &spec, Some(&attributes)).and_then(|()| {
        let mut block = Zeroizing::new(vec![0; 64 << 10]);
        loop {
            let count = source.read(&mut block).map_err(|error| fault("copy", from, error))?;
            if count == 0 {
                break;
            }
            (&file).write_all(&block[..count]).map_err(|error| fault("copy", to, error))?;
        }
        file.sync_all().map_err(|error| fault("copy", to, error))
    });
    copied.and_then(|()| sync_dir("copy", &to.parent())).map_err(|error| discard(error, to))
}

pub(crate) fn make_dir(dir: &HostPath) -> Result<()> {
    make_dirs(dir, 0o700)
}

pub(super) fn make_public_dir(dir: &HostPath) -> Result<()> {
    make_dirs(dir, 0o755)
}

fn make_dirs(dir: &HostPath, mode: u32) -> Result<()> {
    match fs::metadata(dir.as_str()) {
        Ok(facts) if facts.is_dir() => return Ok(()),
        Ok(_) => {
            return Err(refusal(
                "make_dir",
                dir,
                "not_a_directory",
                format!("{dir} is no directory; remove it, or give another path"),
            ));
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(fault("make_dir", dir, error)),
    }
    let parent = dir.parent();
    if parent != *dir {
        make_dirs(&parent, mode)?;
    }
    match fs::DirBuilder::new().mode(mode).create(dir.as_str()) {
        Ok(()) => {
            // The process's umask may have taken more away than is wanted.
            fs::set_permissions(dir.as_str(), Permissions::from_mode(mode))
                .map_err(|error| fault("make_dir", dir, error))?;
            sync_dir("make_dir", &parent)
        }
        // Somebody else made it in between.
        Err(_) if fs::metadata(dir.as_str()).is_ok_and(|facts| facts.is_dir()) => Ok(()),
        Err(error) => Err(fault("make_dir", dir, error)),
    }
}

pub(crate) fn remove(path: &HostPath) -> Result<()> {
    let removed = match fs::symlink_metadata(path.as_str()) {
        Ok(facts) if facts.is_dir() => fs::remove_dir(path.as_str()),
        Ok(_) => fs::remove_file(path.as_str()),
        Err(error) => Err(error),
    };
    match removed {
        Ok(()) => sync_dir("remove", &path.parent()),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            Ok(())
        }
        Err(error) => Err(fault("remove", path, error)),
    }
}

/// Opens a regular file; nothing else, and through no symlink. Never waits, as opening a pipe would.
fn open_file(step: &str, path: &HostPath, access: OFlags) -> Result<(File, Metadata)> {
    let flags = access | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file =
        File::from(open(path.as_str(), flags, Mode::empty()).map_err(|errno| fault(step, path, errno))?);
    let facts = file.metadata().map_err(|error| fault(step, path, error))?;
    if !facts.is_file() {
        return Err(not_a_file(step, path, &facts));
    }
    Ok((file, facts))
}

/// What is at a destination; a directory, a symlink or a device is refused.
fn existing(step: &str, path: &HostPath) -> Result<Option<Metadata>> {
    match fs::symlink_metadata(path.as_str()) {
        Ok(facts) if facts.is_file() => Ok(Some(facts)),
        Ok(facts) => Err(not_a_file(step, path, &facts)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(fault(step, path, error)),
    }
}

fn not_a_file(step: &str, path: &HostPath, facts: &Metadata) -> Error {
    let (reason, what) = match facts.file_type() {
        kind if kind.is_dir() => ("is_a_directory", "a directory"),
        kind if kind.is_symlink() => ("symlink", "a symlink"),
        _ => ("not_a_file", "a device, pipe or socket"),
    };
    refusal(step, path, reason, format!("{path} is {what}; give the path of a regular file"))
}

/// A new, empty dot-file beside `destination`, open for writing, that only this user can read.
pub(crate) fn create_beside(step: &str, destination: &HostPath) -> Result<(HostPath, File)> {
    const SUFFIX: usize = ".certctl-".len() + 16;
    const NAME_MAX: usize = 255;
    let mut name = destination.file_name();
    while name.len() + 1 + SUFFIX > NAME_MAX {
        name = &name[..name.floor_char_boundary(name.len() - 1)];
    }
    let mut tries = 0;
    loop {
        // The standard library's own randomness: O_EXCL is what keeps others out, the name need only be unlikely.
        let random = RandomState::new().build_hasher().finish();
        let path = destination.parent().join(&format!(".{name}.certctl-{random:016x}"))?;
        match create(&path) {
            Ok(file) => return Ok((path, file)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && tries < 8 => tries += 1,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let dir = destination.parent();
                return Err(refusal(
                    step,
                    destination,
                    "absent",
                    format!("there is no directory {dir}; create it, or correct the path {destination}"),
                ));
            }
            Err(error) => return Err(fault(step, destination, error)),
        }
    }
}

fn create(path: &HostPath) -> io::Result<File> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(open(path.as_str(), flags, Mode::from_raw_mode(0o600)).map(File::from)?)
}

/// Owner, attributes and mode, in an order that never opens the file wider than it will be; before its first byte.
fn dress(
    path: &HostPath,
    step: &str,
    file: &File,
    spec: &FileSpec,
    attributes: Option<&Attributes>,
) -> Result<()> {
    if let Some((uid, gid)) = spec.owner {
        let facts = file.metadata().map_err(|error| fault(step, path, error))?;
        if (facts.uid(), facts.gid()) != (uid, gid) {
            fchown(file, Some(uid), Some(gid)).map_err(|error| {
                refusal(
                    step,
                    path,
                    "owner",
                    format!(
                        "{path} can't be given to user {uid} and group {gid}; run this program as root, or change the \
                         owner of the file to the user that it runs as"
                    ),
                )
                .with_source(error)
            })?;
        }
    }
    if let Some(attributes) = attributes {
        attributes.apply(file).map_err(|fault| lost(step, path, fault))?;
    }
    // Last: it narrows what an ACL allows.
    file.set_permissions(Permissions::from_mode(spec.mode & 0o7777)).map_err(|error| fault(step, path, error))
}

pub(crate) fn write(step: &str, path: &HostPath, mut file: &File, bytes: &[u8]) -> Result<()> {
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(|error| fault(step, path, error))
}

fn fill(file: &mut File, bytes: &mut [u8]) -> io::Result<usize> {
    let mut count = 0;
    while count < bytes.len() {
        match file.read(&mut bytes[count..]) {
            Ok(0) => break,
            Ok(more) => count += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(count)
}

/// Until this returns, a crash may undo what was done in the directory.
pub(crate) fn sync_dir(step: &str, dir: &HostPath) -> Result<()> {
    File::open(dir.as_str())
        .and_then(|dir| dir.sync_all())
        .map_err(|error| fault(step, dir, error).with_effect(Effect::Unknown))
}

pub(crate) fn discard(error: Error, path: &HostPath) -> Error {
    match fs::remove_file(path.as_str()) {
        Ok(()) => error,
        Err(_) => error.with("left_behind", path),
    }
}

fn lost(step: &str, path: &HostPath, fault: AttributeFault) -> Error {
    let AttributeFault { name, error } = fault;
    refusal(
        step,
        path,
        "attribute",
        format!(
            "the extended attribute {name} of {path} can't be preserved; remove it from the file, or run this program \
             with the right to set it"
        ),
    )
    .with("attribute", name)
    .with_source(error)
}
