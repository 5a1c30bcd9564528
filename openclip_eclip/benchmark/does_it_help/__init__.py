"""`openclip-eclip benchmark`: do expert annotations help on the user's own data?"""
