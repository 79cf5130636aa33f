//! Server-streaming lists (KEP-5825). A message carries as many items as fit by their encoded size, so that none
//! exceeds the client's limit (kubelet: 16 MiB per message).

use std::iter::Peekable;

use futures_util::stream;
use prost::Message;
use tonic::codegen::BoxStream;
use tonic::{Response, Status};

use super::status::ToStatus;
use crate::api::Item;

/// Limit for the encoded size of all items of a message, in bytes. A larger item gets a message of its own.
const BATCH: usize = 1 << 20;
/// What `repeated` adds to the encoded size of an item: its key, and its length as a varint.
const FRAME: usize = 6;

/// Streams a list. Each item is sent exactly once and each message has at least one item, so an empty list has no
/// message. A message is built only when the client is ready for it.
pub(super) fn streamed<T, R, E>(items: Result<Vec<T>, E>, reply: fn(Vec<T>) -> R) -> Answer<R>
where
    T: Weighed + Send + 'static,
    R: 'static,
    E: ToStatus,
{
    let items = items.map_err(|error| error.to_status())?;
    let batches = Batches { items: items.into_iter().peekable(), reply };
    Ok(Response::new(Box::pin(stream::iter(batches.map(Ok)))))
}

/// A value with an encoded size.
pub(super) trait Weighed {
    /// Encoded size in bytes.
    fn weight(&self) -> usize;
}

impl<T: Message> Weighed for T {
    fn weight(&self) -> usize {
        self.encoded_len()
    }
}

impl Weighed for Item {
    fn weight(&self) -> usize {
        self.encoded_len()
    }
}

type Answer<R> = Result<Response<BoxStream<R>>, Status>;

struct Batches<I: Iterator, R> {
    items: Peekable<I>,
    reply: fn(Vec<I::Item>) -> R,
}

impl<I, R> Iterator for Batches<I, R>
where
    I: Iterator,
    I::Item: Weighed,
{
    type Item = R;

    fn next(&mut self) -> Option<R> {
        let first = self.items.next()?;
        let mut remaining = BATCH.saturating_sub(size(&first));
        let mut batch = vec![first];
        while let Some(item) = self.items.next_if(|item| size(item) <= remaining) {
            remaining -= size(&item);
            batch.push(item);
        }
        Some((self.reply)(batch))
    }
}

fn size(item: &impl Weighed) -> usize {
    item.weight() + FRAME
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use futures_util::{FutureExt, StreamExt};
    use proptest::prelude::*;

    use super::*;
    use crate::api::v1::{Image, StreamImagesResponse};

    fn stream(sizes: &[usize]) -> Vec<StreamImagesResponse> {
        let item = |(number, size): (usize, &usize)| Image {
            id: number.to_string(),
            username: "x".repeat(*size),
            ..Image::default()
        };
        let items: Vec<_> = sizes.iter().enumerate().map(item).collect();
        let reply = |images| StreamImagesResponse { images };
        let stream = streamed::<_, _, Infallible>(Ok(items), reply).unwrap().into_inner();
        let messages: Vec<Result<_, _>> = stream.collect().now_or_never().unwrap();
        messages.into_iter().map(Result::unwrap).collect()
    }

    #[test]
    fn an_empty_list_has_no_message() {
        assert!(stream(&[]).is_empty());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn each_item_comes_once_in_order_and_no_message_is_empty_or_too_large(
            sizes in prop::collection::vec(0usize..(BATCH * 5 / 4), 0..12)
        ) {
            let messages = stream(&sizes);
            let mut next = 0;
            for message in &messages {
                prop_assert!(!message.images.is_empty());
                prop_assert!(message.encoded_len() <= BATCH || message.images.len() == 1);
                for item in &message.images {
                    prop_assert_eq!(&item.id, &next.to_string());
                    next += 1;
                }
            }
            prop_assert_eq!(next, sizes.len());
            // As few messages as possible: the first item of a message would not have fitted into the one before.
            for pair in messages.windows(2) {
                let next = size(&pair[1].images[0]);
                prop_assert!(pair[0].images.iter().map(size).sum::<usize>() + next > BATCH);
            }
        }
    }
}
