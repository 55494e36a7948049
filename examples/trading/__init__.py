"""Trading signals: how far will the price move next, and how sure is that?"""
