# /// script
# dependencies = ["google-cloud-storage", "google-cloud-pubsub"]
# ///
from google.auth.credentials import AnonymousCredentials
from google.cloud import pubsub_v1, storage


def f(event):
    client = storage.Client(project='project', credentials=AnonymousCredentials())
    assert client.bucket('a').blob('b/c').path == '/b/a/o/b%2Fc'
    assert pubsub_v1.PublisherClient.topic_path('a', 'b') == 'projects/a/topics/b'
    return 'two distributions of one namespace'
