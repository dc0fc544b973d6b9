//! What the data directory has for people: the administrator's key, and the root that clients trust.

use std::{
    fs,
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::Path,
};

use certctl_core::{
    Actor, Engine, Error, ErrorKind, Result, Role,
    records::ApiKey,
    store::{Query, Stored, Test},
};

use crate::server::LOCAL_ISSUER;

/// Makes the data directory, for its owner alone. One that is there keeps its mode.
pub(crate) fn directory(path: &Path) -> Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|e| unusable(path, "can't be made", e))
}

/// Writes the administrator's API key at the first start. A key that was made and never written down, because that start was
/// cut short, is replaced: nobody can have it.
pub(crate) async fn admin_key(engine: &Engine, data_dir: &Path) -> Result<()> {
    let path = data_dir.join("admin.key");
    let mut made = engine.ensure_api_key("admin", Role::Admin).await?;
    if made.is_none() && !path.exists() {
        let process = Actor::process();
        let query =
            Query::of::<ApiKey>().filter("role", Test::Equal, Role::Admin.as_str()).limit(Engine::MAX_PAGE);
        let (keys, _): (Vec<Stored<ApiKey>>, _) = engine.list(&process, query).await?;
        // `admin`, or the one that was made in its place.
        let own = |name: &str| {
            let rest = name.strip_prefix("admin");
            rest.is_some_and(|rest| {
                rest.is_empty() || rest.strip_prefix('-').is_some_and(|number| number.parse::<u32>().is_ok())
            })
        };
        let lost = |key: &Stored<ApiKey>| own(&key.name) && key.last_used.is_none();
        let usable: Vec<_> = keys.iter().filter(|key| key.revoked.is_none()).collect();
        if usable.len() == 1 && usable.iter().all(|key| lost(key)) {
            for key in usable {
                engine.revoke_api_key(&process, key.id.as_str()).await?;
            }
            made = engine.ensure_api_key("admin", Role::Admin).await?;
        }
    }
    let Some(secret) = made else { return Ok(()) };
    let mut line = secret.expose().to_vec();
    line.push(b'\n');
    write(&path, &line, 0o600)?;
    tracing::info!("wrote the administrator's API key to {}", path.display());
    Ok(())
}

/// Writes the root of the local CA, where it is not there or another one.
pub(crate) async fn ca_file(engine: &Engine, data_dir: &Path) -> Result<()> {
    let path = data_dir.join("ca.pem");
    let roots = match engine.trust_anchors(LOCAL_ISSUER).await {
        Ok(roots) => roots,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(e),
    };
    let pem: String = roots.iter().map(certctl_core::X509Certificate::to_pem).collect();
    if pem.is_empty() || fs::read(&path).is_ok_and(|there| there == pem.as_bytes()) {
        return Ok(());
    }
    write(&path, pem.as_bytes(), 0o644)?;
    tracing::info!("wrote the root that clients have to trust to {}", path.display());
    Ok(())
}

/// The whole file or the one before, whenever the power goes.
fn write(path: &Path, content: &[u8], mode: u32) -> Result<()> {
    let fresh = path.with_extension("new");
    let attempt = || -> io::Result<()> {
        // One that is there has whatever mode an attempt before left it with.
        match fs::remove_file(&fresh) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&fresh)?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&fresh, path)?;
        match path.parent() {
            Some(directory) if !directory.as_os_str().is_empty() => fs::File::open(directory)?.sync_all(),
            _ => Ok(()),
        }
    };
    attempt().map_err(|e| unusable(path, "can't be written", e))
}

fn unusable(path: &Path, what: &str, e: io::Error) -> Error {
    Error::new(ErrorKind::Precondition, format!("{} {what}", path.display()))
        .with("file", path.display())
        .with_source(e)
}
