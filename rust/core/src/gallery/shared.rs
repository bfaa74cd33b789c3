//! A gallery that is changed and searched by several threads, in memory or in a folder.

use super::additions::{Additions, OnConflict, check_batch};
use super::folder::{self, Checksum, Folder, Owner, State, from_hex, hex};
use super::image::StoredImage;
use super::images::Gallery;
use crate::cancel::Cancel;
use crate::error::{Error, Result};
use crate::parallel::for_each;
use crate::pyramid::{DType, PyramidBatch, Upsample};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A [`Gallery`] that may be changed from several threads. Images that were selected stay as they
/// were, whatever is done to the gallery meanwhile.
///
/// In a folder, a change is on the disk when the method returns; an error, or a crash at any moment,
/// leaves the gallery as it was before.
#[derive(Debug)]
pub struct SharedGallery {
    /// None in memory.
    home: Option<Home>,
    state: Mutex<State>,
}

/// The folder of a gallery.
#[derive(Debug)]
struct Home {
    path: PathBuf,
    /// Only this process may change the folder; one that was forked from it inherits all of this.
    owner: Owner,
    /// None when it is open for reading. Taken before the state by a thread that changes the folder.
    folder: Mutex<Option<Folder>>,
    /// The state in which it was opened for reading, or closed for writing.
    read_at: Mutex<Checksum>,
}

impl From<Gallery> for SharedGallery {
    /// In memory, or with features that stay in a file.
    fn from(gallery: Gallery) -> Self {
        let state = State {
            gallery,
            removed: Vec::new(),
        };
        Self {
            home: None,
            state: Mutex::new(state),
        }
    }
}

impl SharedGallery {
    /// Makes an empty gallery in a new folder, and opens it for writing.
    ///
    /// # Errors
    /// [`Error::Store`] when there is something already, or it cannot be written.
    pub fn create(path: &Path, upsample: Upsample, dtype: DType) -> Result<Self> {
        let (folder, state) = Folder::create(path, upsample, dtype)?;
        let read_at = folder.state();
        Ok(Self::at(path, Some(folder), state, read_at))
    }

    /// Opens the gallery in a folder. Its features stay there; each image is verified when it is first
    /// used, or by [`verify`](Self::verify).
    ///
    /// # Errors
    /// [`Error::Store`] when it holds no gallery, or is damaged; to write, when it is open for writing
    /// already, or cannot be written; [`Error::Interrupted`].
    pub fn open(path: &Path, write: bool, cancel: Cancel<'_>) -> Result<Self> {
        Self::open_state(path, write, None, cancel)
    }

    /// Opens the gallery in a folder as it was in a state that [`journal_state`](Self::journal_state)
    /// has returned, also if it was compacted since. To write, a change that follows is taken back.
    ///
    /// # Errors
    /// Those of [`open`](Self::open); [`Error::Store`] when the gallery never had that state or was
    /// compacted more than once since, or, to write, when more than one change follows it;
    /// [`Error::Parameter`] when it is not 32 hexadecimal digits.
    pub fn open_at(path: &Path, write: bool, state: &str, cancel: Cancel<'_>) -> Result<Self> {
        let at = from_hex(state).ok_or_else(|| {
            let message = format!("state: expected 32 hexadecimal digits, got {state:?}");
            Error::parameter("state", message)
        })?;
        Self::open_state(path, write, Some(at), cancel)
    }

    fn open_state(
        path: &Path,
        write: bool,
        at: Option<Checksum>,
        cancel: Cancel<'_>,
    ) -> Result<Self> {
        if write {
            let (folder, state) = Folder::open(path, at, cancel)?;
            let read_at = folder.state();
            return Ok(Self::at(path, Some(folder), state, read_at));
        }
        let (state, read_at) = folder::read(path, at, cancel)?;
        Ok(Self::at(path, None, state, read_at))
    }

    /// What tells the state of the gallery's folder from every other; None in memory.
    #[must_use]
    pub fn journal_state(&self) -> Option<String> {
        let home = self.home.as_ref()?;
        let folder = if home.owner.is_this_process() {
            lock(&home.folder).as_ref().map(Folder::state)
        } else {
            None
        };
        Some(hex(folder.unwrap_or_else(|| *lock(&home.read_at))))
    }

    /// Takes images of another gallery, all or those with some ids, which both share from then on.
    ///
    /// # Errors
    /// [`Error::Store`] when this gallery is in a folder; [`Error::Parameter`] for an id that is not in
    /// the other one, or, unless `replace`, is in this one; [`Error::Shape`] when the galleries differ in
    /// shape, and [`Error::Parameter`] in how they upsample or store.
    pub fn share(&self, other: &Self, ids: Option<&[String]>, replace: bool) -> Result<()> {
        if let Some(home) = &self.home {
            let reason = "is in a folder: only a gallery in memory shares images of others";
            return Err(Error::store(&home.path, reason));
        }
        let shared = match ids {
            None => other.copy(),
            Some(ids) => other.read(|gallery| gallery.of_ids(ids))?,
        };
        lock(&self.state).gallery.share(shared, replace)
    }

    fn at(path: &Path, folder: Option<Folder>, state: State, read_at: Checksum) -> Self {
        Self {
            home: Some(Home {
                path: path.to_owned(),
                owner: Owner::this_process(),
                folder: Mutex::new(folder),
                read_at: Mutex::new(read_at),
            }),
            state: Mutex::new(state),
        }
    }

    /// The folder, if the gallery is in one.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        self.home.as_ref().map(|home| home.path.as_path())
    }

    /// Whether it may be changed: always in memory, and in a folder that this process has opened for
    /// writing.
    #[must_use]
    pub fn is_writable(&self) -> bool {
        let home = self.home.as_ref();
        home.is_none_or(|home| home.owner.is_this_process() && lock(&home.folder).is_some())
    }

    /// Ends writing, so that others may; the gallery can still be searched. In a process that was
    /// forked from the one that writes it does nothing.
    pub fn close(&self) {
        if let Some(home) = &self.home
            && home.owner.is_this_process()
            && let Some(folder) = lock(&home.folder).take()
        {
            *lock(&home.read_at) = folder.state();
        }
    }

    /// Looks at the gallery as it is now. It cannot be changed meanwhile, so this should be short.
    pub fn read<T>(&self, look: impl FnOnce(&Gallery) -> T) -> T {
        look(&lock(&self.state).gallery)
    }

    /// A gallery in memory that shares the images of this one.
    #[must_use]
    pub fn copy(&self) -> Gallery {
        self.read(Gallery::clone)
    }

    /// Number of images that were removed, and whose features are still in the folder.
    #[must_use]
    pub fn n_removed(&self) -> usize {
        lock(&self.state).removed.len()
    }

    /// Adds the images of a batch under `ids`: all of them, or none when there is an error.
    ///
    /// # Errors
    /// [`Error::Shape`] when the pyramids differ from those of the gallery, or there is not one id per
    /// image; [`Error::Parameter`] for an id that is given twice, or, as `known` says, is there already
    /// or not; [`Error::Image`] for features that are not finite, or too large for float16 storage;
    /// [`Error::Store`] when the folder is not open for writing or does not take them;
    /// [`Error::Interrupted`].
    pub fn add(
        &self,
        batch: &PyramidBatch<'_>,
        ids: &[String],
        known: OnConflict,
        cancel: Cancel<'_>,
    ) -> Result<()> {
        let Some(home) = &self.home else {
            // Copied before the lock is taken, so that other threads wait for the insertion only.
            let dtype = self.read(Gallery::dtype);
            let additions = Additions::new(batch, ids, dtype, cancel)?;
            cancel.check()?;
            let mut state = lock(&self.state);
            state.gallery.check_insertion(batch.shape(), ids, known)?;
            state.gallery.insert(additions);
            return Ok(());
        };
        let mut folder = home.folder()?;
        let folder = home.writable(&mut folder)?;
        let named = |error| home.named(error);
        check_batch(batch, ids).map_err(named)?;
        let is_first = {
            let state = lock(&self.state);
            let checked = state.gallery.check_insertion(batch.shape(), ids, known);
            checked.map_err(named)?;
            state.gallery.is_empty()
        };
        if ids.is_empty() {
            return Ok(());
        }
        let remove = if known == OnConflict::Replace {
            ids
        } else {
            &[]
        };
        let images = folder.append(batch, ids, remove, is_first, cancel);
        let additions = Additions::stored(batch.shape(), images.map_err(named)?);
        let mut state = lock(&self.state);
        let replaced = state.gallery.insert(additions);
        state.removed.extend(replaced);
        Ok(())
    }

    /// Copies images of another gallery, as they are kept there: all of them, in one change, or none when
    /// there is an error. No more than one image is in memory at a time.
    ///
    /// # Errors
    /// [`Error::Parameter`] for an id that is not in the other one, or is in this one, and when the
    /// galleries differ in how they upsample or store; [`Error::Shape`] when they differ in shape;
    /// [`Error::Store`] when an image is damaged, or the folder is not open for writing or does not take
    /// them; [`Error::Interrupted`].
    pub fn take(&self, other: &Self, ids: &[String], cancel: Cancel<'_>) -> Result<()> {
        let Some(home) = &self.home else {
            return self.share(other, Some(ids), false);
        };
        let mut folder = home.folder()?;
        let folder = home.writable(&mut folder)?;
        let named = |error| home.named(error);
        let taken = other.read(|gallery| gallery.of_ids(ids))?;
        // The checks are those of a gallery in memory.
        self.copy().share(taken.clone(), false).map_err(named)?;
        let Some(shape) = taken.shape.as_ref() else {
            return Ok(());
        };
        let is_first = self.read(Gallery::is_empty);
        let images = folder.append_copies(shape, &taken.images, is_first, cancel);
        let additions = Additions::stored(shape, images.map_err(named)?);
        lock(&self.state).gallery.insert(additions);
        Ok(())
    }

    /// Removes images: all of them, or none when one is unknown. In a folder their features stay until
    /// it is compacted.
    ///
    /// # Errors
    /// [`Error::Parameter`] for an unknown id; [`Error::Store`] when the folder is not open for writing
    /// or does not take the change.
    pub fn remove(&self, ids: &[String]) -> Result<()> {
        let Some(home) = &self.home else {
            return lock(&self.state).gallery.remove(ids).map(drop);
        };
        let mut folder = home.folder()?;
        let folder = home.writable(&mut folder)?;
        self.read(|gallery| gallery.check_known(ids))
            .map_err(|error| home.named(error))?;
        let mut ids = ids.to_vec();
        ids.sort_unstable();
        ids.dedup();
        if ids.is_empty() {
            return Ok(());
        }
        folder.remove(&ids)?;
        let mut state = lock(&self.state);
        let removed = state.gallery.remove(&ids)?;
        state.removed.extend(removed);
        Ok(())
    }

    /// Gives back the room of removed images; in memory there is nothing to do.
    ///
    /// # Errors
    /// [`Error::Store`] when the folder is not open for writing, an image is damaged, or there is no
    /// room for what stays of the segments that hold removed images; [`Error::Interrupted`].
    pub fn compact(&self, cancel: Cancel<'_>) -> Result<()> {
        let Some(home) = &self.home else {
            return Ok(());
        };
        let mut folder = home.folder()?;
        let folder = home.writable(&mut folder)?;
        let gallery = self.copy();
        let moved = folder.compact(&gallery, cancel)?;
        let mut state = lock(&self.state);
        state.gallery.exchange(moved);
        state.removed.clear();
        Ok(())
    }

    /// Reads every image of a folder, also the removed ones, and compares its checksum.
    ///
    /// # Errors
    /// [`Error::Store`] with the first image that is damaged; [`Error::Interrupted`].
    pub fn verify(&self, cancel: Cancel<'_>) -> Result<()> {
        let images: Vec<Arc<StoredImage>> = {
            let state = lock(&self.state);
            let images = state.gallery.images().chain(&state.removed);
            images.cloned().collect()
        };
        for_each(images, None, cancel, |image| image.verify(true))
    }
}

impl Home {
    /// The folder, which no other thread changes meanwhile.
    fn folder(&self) -> Result<MutexGuard<'_, Option<Folder>>> {
        if self.owner.is_this_process() {
            return Ok(lock(&self.folder));
        }
        // Not waited for: the thread that had it, if there was one, is not in the forked process.
        match self.folder.try_lock() {
            Ok(folder) if folder.is_none() => Ok(folder),
            _ => Err(Error::store(
                &self.path,
                format!(
                    "was opened for writing by process {}, from which this one was forked: close \
                     it there, and open it here",
                    self.owner.id()
                ),
            )),
        }
    }

    fn writable<'a>(&self, folder: &'a mut Option<Folder>) -> Result<&'a mut Folder> {
        folder.as_mut().ok_or_else(|| {
            let reason = "is not open for writing: open it with mode=\"r+\"";
            Error::store(&self.path, reason)
        })
    }

    /// The error, with the gallery that it is about.
    fn named(&self, error: Error) -> Error {
        error.in_gallery(&self.path)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is locked is changed only once nothing can fail any more.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
