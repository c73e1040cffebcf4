# /// script
# dependencies = ["protobuf"]
# ///
from google.protobuf import json_format, struct_pb2, timestamp_pb2


def f(event):
    value = struct_pb2.Struct()
    value.update({'a': 1, 'b': ['x']})
    copy = struct_pb2.Struct.FromString(value.SerializeToString())
    assert json_format.MessageToDict(copy) == {'a': 1.0, 'b': ['x']}
    stamp = timestamp_pb2.Timestamp()
    stamp.FromJsonString('2024-02-29T00:00:00Z')
    return f'{len(value.SerializeToString())} bytes there and back'
