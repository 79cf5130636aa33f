//! Server-streaming lists (KEP-5825): one message carries as many items as fit, by their encoded size and not by their
//! number, so that no list outgrows what a client takes (kubelet: 16 MiB a message).

use std::iter::Peekable;

use futures_util::stream;
use prost::Message;
use tonic::codegen::BoxStream;
use tonic::{Response, Status};

use super::status::ToStatus;

/// What the items of one message take together, encoded. An item that is larger has a message of its own.
const BATCH: usize = 1 << 20;
/// What `repeated` adds to an item: its key, and its length as a varint.
const FRAME: usize = 6;

/// Streams a list: each item once, at least one a message, and for an empty list no message. A message is made when the
/// client is ready for it.
pub(super) fn streamed<T, R, E>(items: Result<Vec<T>, E>, reply: fn(Vec<T>) -> R) -> Answer<R>
where
    T: Message + 'static,
    R: 'static,
    E: ToStatus,
{
    let items = items.map_err(|error| error.to_status())?;
    let batches = Batches { items: items.into_iter().peekable(), reply };
    Ok(Response::new(Box::pin(stream::iter(batches.map(Ok)))))
}

type Answer<R> = Result<Response<BoxStream<R>>, Status>;

struct Batches<I: Iterator, R> {
    items: Peekable<I>,
    reply: fn(Vec<I::Item>) -> R,
}

impl<I, R> Iterator for Batches<I, R>
where
    I: Iterator,
    I::Item: Message,
{
    type Item = R;

    fn next(&mut self) -> Option<R> {
        let first = self.items.next()?;
        let mut room = BATCH.saturating_sub(size(&first));
        let mut batch = vec![first];
        while let Some(item) = self.items.next_if(|item| size(item) <= room) {
            room -= size(&item);
            batch.push(item);
        }
        Some((self.reply)(batch))
    }
}

fn size(item: &impl Message) -> usize {
    item.encoded_len() + FRAME
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use futures_util::{FutureExt, StreamExt};
    use proptest::prelude::*;

    use super::*;
    use crate::api::v1::{Container, StreamContainersResponse};

    fn stream(sizes: &[usize]) -> Vec<StreamContainersResponse> {
        let item = |(number, size): (usize, &usize)| Container {
            id: number.to_string(),
            image_id: "x".repeat(*size),
            ..Container::default()
        };
        let items: Vec<_> = sizes.iter().enumerate().map(item).collect();
        let reply = |containers| StreamContainersResponse { containers };
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
                prop_assert!(!message.containers.is_empty());
                prop_assert!(message.encoded_len() <= BATCH || message.containers.len() == 1);
                for item in &message.containers {
                    prop_assert_eq!(&item.id, &next.to_string());
                    next += 1;
                }
            }
            prop_assert_eq!(next, sizes.len());
            // As few messages as there can be: no two neighbours would have fitted into one.
            for pair in messages.windows(2) {
                let next = size(&pair[1].containers[0]);
                prop_assert!(pair[0].containers.iter().map(size).sum::<usize>() + next > BATCH);
            }
        }
    }
}
