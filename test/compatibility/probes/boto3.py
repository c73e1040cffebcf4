# /// script
# dependencies = ["boto3"]
# ///
import boto3
from botocore.stub import Stubber


def f(event):
    client = boto3.client('s3', region_name='eu-west-1', aws_access_key_id='a', aws_secret_access_key='b')
    assert 'Signature=' in client.generate_presigned_url('get_object', {'Bucket': 'a', 'Key': 'b'})
    with Stubber(client) as stub:
        stub.add_response('list_buckets', {'Buckets': [{'Name': 'a'}]})
        assert client.list_buckets()['Buckets'][0]['Name'] == 'a'
    return 'client of S3, signed address'
