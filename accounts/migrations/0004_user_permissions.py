from django.db import migrations


class Migration(migrations.Migration):
    dependencies = [
        ("accounts", "0003_user_notifications"),
    ]

    operations = [
        migrations.AlterModelOptions(
            name="user",
            options={"permissions": [("set_password", "Can set the password of a customer")]},
        ),
    ]
