//! Appends to a file without blocking the control thread, on a ring or on tokio's threads.

use std::fs::File;
use std::io::{self, Write as _};
use std::sync::Arc;

use tokio_uring::buf::BoundedBuf as _;

use super::runtime::FileIo;

/// A file opened for appending, with the way its runtime writes it.
pub(super) enum Appender {
    Ring(tokio_uring::fs::File),
    Threads(Arc<File>),
}

impl Appender {
    /// Duplicates the descriptor of `file`.
    ///
    /// # Errors
    /// When the descriptor cannot be duplicated.
    pub(super) fn new(file: &File, file_io: FileIo) -> io::Result<Self> {
        let file = file.try_clone()?;
        Ok(match file_io {
            FileIo::Ring => Self::Ring(tokio_uring::fs::File::from_std(file)),
            FileIo::Threads => Self::Threads(Arc::new(file)),
        })
    }

    /// Appends all bytes and syncs them to disk; returns how many bytes are in the file, also on an
    /// error.
    pub(super) async fn append(&self, bytes: Vec<u8>) -> (usize, io::Result<()>) {
        match self {
            Self::Ring(file) => append_by_ring(file, bytes).await,
            Self::Threads(file) => {
                let file = file.clone();
                let appending = tokio::task::spawn_blocking(move || append_here(&file, &bytes));
                appending.await.unwrap_or_else(|error| (0, Err(io::Error::other(error))))
            }
        }
    }
}

/// Appends and syncs through the control thread's ring.
async fn append_by_ring(
    file: &tokio_uring::fs::File,
    mut bytes: Vec<u8>,
) -> (usize, io::Result<()>) {
    let mut written = 0;
    while written < bytes.len() {
        // The file is in append mode, so the kernel ignores the offset.
        let (result, slice) = file.write_at(bytes.slice(written..), 0).submit().await;
        bytes = slice.into_inner();
        match result {
            Ok(0) => return (written, Err(io::ErrorKind::WriteZero.into())),
            Ok(more) => written += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return (written, Err(error)),
        }
    }
    (written, ignore_unsyncable(file.sync_data().await))
}

/// Appends and syncs in the calling thread.
fn append_here(mut file: &File, bytes: &[u8]) -> (usize, io::Result<()>) {
    let mut written = 0;
    while written < bytes.len() {
        match file.write(&bytes[written..]) {
            Ok(0) => return (written, Err(io::ErrorKind::WriteZero.into())),
            Ok(more) => written += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return (written, Err(error)),
        }
    }
    (written, ignore_unsyncable(file.sync_data()))
}

/// Ignores a refused sync: pipes and terminals have no disk to sync to (EINVAL).
fn ignore_unsyncable(synced: io::Result<()>) -> io::Result<()> {
    match synced {
        Err(error) if error.kind() != io::ErrorKind::InvalidInput => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::OpenOptions;
    use std::io::Read as _;

    use super::*;
    use crate::control::testing::{RingAccess, make_folder};

    #[test]
    fn both_ways_append_and_report_how_much_is_in_the_file() {
        for access in RingAccess::ALL {
            let folder = make_folder();
            let path = folder.join("log");
            std::fs::write(&path, "before\n").unwrap();
            let file = OpenOptions::new().append(true).open(&path).unwrap();
            let results = access.run(move |runtime| {
                runtime.block_on(async {
                    let appender = Appender::new(&file, runtime.file_io()).unwrap();
                    let first = appender.append(b"one\n".to_vec()).await;
                    let long = appender.append(vec![b'x'; 300_000]).await;
                    [first, long].map(|(written, result)| (written, result.is_ok()))
                })
            });
            assert_eq!(results, [(4, true), (300_000, true)], "{access:?}");
            let text = std::fs::read_to_string(&path).unwrap();
            assert!(text.starts_with("before\none\nxxx"), "{access:?}");
            assert_eq!(text.len(), 7 + 4 + 300_000, "{access:?}");
            std::fs::remove_dir_all(folder).unwrap();
        }
    }

    #[test]
    fn both_ways_accept_what_has_no_disk_and_report_a_full_one() {
        for access in RingAccess::ALL {
            let (mut reader, writer) = io::pipe().unwrap();
            let pipe = File::from(std::os::fd::OwnedFd::from(writer));
            let full = OpenOptions::new().append(true).open("/dev/full").unwrap();
            let (piped, failed) = access.run(move |runtime| {
                runtime.block_on(async {
                    let append = async |file: &File| {
                        let appender = Appender::new(file, runtime.file_io()).unwrap();
                        appender.append(b"line\n".to_vec()).await
                    };
                    (append(&pipe).await, append(&full).await)
                })
            });
            assert!(matches!(piped, (5, Ok(()))), "{access:?}: {piped:?}");
            let mut got = [0; 5];
            reader.read_exact(&mut got).unwrap();
            assert_eq!(&got, b"line\n", "{access:?}");
            let (0, Err(error)) = failed else { panic!("{access:?}: {failed:?}") };
            assert_eq!(error.raw_os_error(), Some(libc::ENOSPC), "{access:?}");
        }
    }
}
