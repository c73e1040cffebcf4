# /// script
# dependencies = ["tokenizers"]
# ///
from tokenizers import Tokenizer, models, pre_tokenizers, trainers


def f(event):
    tokenizer = Tokenizer(models.BPE(unk_token='?'))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.train_from_iterator(['low lower lowest'] * 20, trainers.BpeTrainer(vocab_size=60, special_tokens=['?']))
    assert tokenizer.encode('lower').tokens == ['lower']
    return 'tokenizer trained and used'
