# /// script
# dependencies = ["django"]
# ///
import django
from django.conf import settings

settings.configure(
    ALLOWED_HOSTS=['*'],
    DATABASES={'default': {'ENGINE': 'django.db.backends.sqlite3', 'NAME': ':memory:'}},
    INSTALLED_APPS=['django.contrib.contenttypes', 'django.contrib.auth'],
    ROOT_URLCONF=__name__,
    SECRET_KEY='of a test',
)
django.setup()

from django.contrib.auth.models import User
from django.core.management import call_command
from django.http import JsonResponse
from django.test import Client
from django.urls import path

urlpatterns = [path('users', lambda request: JsonResponse({'users': User.objects.count()}))]


def f(event):
    call_command('migrate', verbosity=0)
    User.objects.create_user('a', password='b')
    assert Client().get('/users').json() == {'users': 1}
    return 'migrated, ORM, view'
