//! The result that a command leaves for the upload's client, in the file that it is told the name of.

use std::io::Read as _;
use std::path::Path;

use serde_json::Value;
use shared::durable::{self, DiskError, OnPath as _};

/// Largest result that is kept for the client, in bytes. It lives in the receipt, which every
/// HEAD and GET reads.
const BYTES_MAX: u64 = 16 * 1024;

/// What the command wrote for the client: JSON, or else text. Removes the file.
pub(crate) fn take(path: &Path) -> Result<Option<Value>, DiskError> {
    let file = match durable::open(path, false) {
        Err(error) if error.is_missing() => return Ok(None),
        file => file?,
    };
    let mut bytes = Vec::new();
    file.take(BYTES_MAX + 1)
        .read_to_end(&mut bytes)
        .on("read", path)?;
    durable::unlink(path)?;
    if BYTES_MAX < bytes.len() as u64 {
        tracing::warn!(
            most = BYTES_MAX,
            "the command's result is too large and not kept"
        );
        return Ok(None);
    }
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return Ok(None);
    }
    let text = || Value::String(String::from_utf8_lossy(&bytes).trim_end().to_owned());
    Ok(Some(
        serde_json::from_slice(&bytes).unwrap_or_else(|_| text()),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_is_json_or_text_of_limited_size_and_read_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("result");
        let limit = usize::try_from(BYTES_MAX).unwrap();
        let cases: [(Vec<u8>, Option<Value>); 6] = [
            (
                br#"{"ok": true}"#.to_vec(),
                Some(serde_json::json!({"ok": true})),
            ),
            (b"fine\n".to_vec(), Some("fine".into())),
            (b"\xff".to_vec(), Some("\u{fffd}".into())),
            (b" \n".to_vec(), None),
            (vec![b'x'; limit + 1], None),
            (vec![b'x'; limit], Some("x".repeat(limit).into())),
        ];
        for (bytes, expected) in cases {
            std::fs::write(&path, bytes).unwrap();
            assert_eq!(take(&path).unwrap(), expected);
            assert!(!path.try_exists().unwrap());
        }
        assert_eq!(take(&path).unwrap(), None);
        std::os::unix::fs::symlink("/etc/passwd", &path).unwrap();
        assert!(take(&path).is_err(), "no link is followed");
    }
}
